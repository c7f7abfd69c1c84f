"""Answers from sentences, boxes and bold type, right and wrong: a table worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.grading.benchmarks import grade
from cv_lightning.grading.final_answer import final_answer, letter_in_sentence
from cv_lightning.grading.rules import comparison, is_right
from cv_lightning.types import Sample

#: (prediction, truth, the comparison that matches, or None if the prediction is wrong).
CASES = [
    # boxes
    (r"\boxed{D}", "D", "text"),
    (r"$\boxed{\text{D}}$", "D", "text"),
    (r"$$\boxed{\mathrm{D}}$$", "D", "text"),
    (r"\boxed{(D)}", "D", "letter"),
    (r"The cat is on the left, so the answer is $\boxed{B}$.", "B", "text"),
    (r"\boxed{B. a cat}", "B", "letter"),
    (r"\boxed{42}", "42", "text"),
    (r"\boxed{12.0}", "12", "number"),
    (r"\boxed{12\%}", "12", "number"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "text"),
    (r"\boxed{B} \boxed{B}", "B", "text"),
    (r"\boxed{B} or \boxed{C}", "B", None),
    (r"\boxed{A and C}", "A", None),
    (r"\boxed{C}", "D", None),
    (r"\boxed{D", "D", None),
    # bold and code type
    ("**D**", "D", "text"),
    ("Answer: **D**", "D", "text"),
    ("**Answer:** D", "D", "text"),
    ("The answer is **D. 42**", "D", "letter"),
    ("`D`", "D", "text"),
    ("__D__", "D", "text"),
    ("**a red bus**", "A red bus", "text"),
    # leads
    ("Final answer: (b)", "B", "letter"),
    ("Answer: D", "D", "letter"),
    ("answer(D)", "D", "letter"),
    ("the answer is option C", "C", "letter"),
    ("The correct answer is: C.", "C", "letter"),
    ("So, the final answer is (C) the red one", "C", "letter"),
    ("I think the answer is C", "C", "text"),
    ("The answer is 42.", "42", "text"),
    ("Answer: $1,200", "1200", "number"),
    ("The answer is light blue", "Light blue", "text"),
    ("The answer is not 42", "42", None),
    ("The answer is 42 or 43", "42", None),
    ("The answer is 43", "42", None),
    # letters in sentences
    ("It is C.", "C", "sentence"),
    ("It's C", "C", "sentence"),
    ("I would choose option C.", "C", "sentence"),
    ("I'd go with (c) here", "C", "sentence"),
    ("C is correct.", "C", "sentence"),
    ("A is the correct answer.", "A", "sentence"),
    ("[B]", "B", "letter"),
    ("The answer is [B]", "B", "letter"),
    ("A is a cat", "A", None),
    ("The answer is A is wrong", "A", None),
    ("[A] or [B]", "A", None),
    ("B, because the sign is red.", "B", "sentence"),
    ("The sign is not red, so the answer is B.", "B", "sentence"),
    ("The answer is B because A shows a cat.", "B", "sentence"),
    ("Looking at the picture, the correct option is D.", "D", "sentence"),
    ("The answer is A, since the dog is left.", "A", "sentence"),
    # no letter, or another letter
    ("A cat", "A", None),
    ("The answer is A cat", "A", None),
    ("the answer is a cat", "A", None),
    ("Both A and C", "A", None),
    ("The answer is A and C", "A", None),
    ("The answer is A, B", "A", None),
    ("A or B", "A", None),
    ("Either B or C is right", "B", None),
    ("It is not B", "B", None),
    ("It isn't B.", "B", None),
    ("I don't think the answer is B", "B", None),
    ("The answer is B is wrong", "B", None),
    ("The answer is B? The answer is C.", "B", None),
    ("The answer is C", "B", None),
    ("None of them, B is wrong", "B", None),
    ("Vitamin C helps", "C", None),
    ("The cat sits beside Anna B. Smith", "A", None),
    ("A. a dog", "A. a cat", None),
    ("Plan C", "Vitamin C", None),
    ("It is C", "Vitamin C", None),
    ("", "A", None),
]


@pytest.mark.parametrize(("prediction", "truth", "how"), CASES)
def test_answers_by_hand(prediction: str, truth: str, how: str | None) -> None:
    assert comparison(prediction, truth) == how
    assert is_right(prediction, truth) is (how is not None)
    named = f"match/{how}" if how else "match"
    assert grade(Sample("s", "?", (), truth), prediction).rule == named


def test_the_rule_of_the_benchmark_is_in_the_grade() -> None:
    assert grade(Sample("s", "?", (), "B", alternatives=("blue",), rule="choice"), "It is blue").rule == "choice"
    assert grade(Sample("s", "?", (), "B", alternatives=("blue",), rule="choice"), "Blue").rule == "choice/text"
    assert grade(Sample("s", "?", (), "20", rule="chartqapro:"), "20.5").rule == "chartqapro"
    judged = grade(Sample("s", "?", (), "a bus"), "an omnibus", lambda *_: True)
    assert (judged.score, judged.by, judged.rule) == (1.0, "judge", "match")


@given(st.text(st.sampled_from("\\boxed{}text$*`_()AaBbC .,isthe answer:\n"), max_size=40))
def test_nothing_raises_and_a_final_answer_is_final(text: str) -> None:
    assert letter_in_sentence(text) in (None, *"abcdefgh")
    assert is_right(text, text) == bool(text.strip())
    assert final_answer(text) or not final_answer(text).strip()
