"""Rules for right answers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.grading.rules import (
    anls,
    choice_letter,
    edit_distance,
    is_right,
    is_right_relaxed,
    normalize,
    parse_number,
)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("FJ7", "FJ7"),
        ("fj7 ", "FJ7"),
        ("'FJ7'.", "FJ7"),
        ("\uff26\uff2a\uff17", "FJ7"),  # full-width letters
        ("a  red\nbus", "A red bus"),
        ("3.0", "3"),
        ("3.", "3"),
        ("$1,200", "1200"),
        ("12 %", "12"),
        ("0.33333", "0.3333"),
        ("1.5e3", "1500"),
        ("-4", "\u22124"),  # a minus sign and a hyphen
        ("B", "b"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) a cat", "B"),
        ("B", "B. a cat"),
        ("B: a cat", "(B) A cat."),
        ("The answer is B", "B"),
        ("Option (B)", "B"),
    ],
)
def test_right(prediction: str, truth: str) -> None:
    assert is_right(prediction, truth)
    assert is_right(truth, prediction)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        (None, "A"),
        ("", "A"),
        ("  ", ""),
        ("FJ", "FJ7"),
        ("FJ7 FJ8", "FJ7"),
        ("3.001", "3"),
        ("1234567", "1234568"),
        ("007", "7"),  # an identifier, not a number
        ("5E3", "5000"),  # a plate, not a number
        (".5", "5"),
        ("-5", "5"),
        ("0.12", "12 %"),
        ("nan", "inf"),
        ("!", "."),
        ("A or B", "B"),
        ("A B C D", "A"),
        ("A. B. C. D.", "A"),
        ("(A) (B)", "A"),
        ("A. cat B. dog", "A"),
        ("A dog", "A"),
        ("Apple", "A"),
        ("A. Jones", "A. Smith"),
    ],
)
def test_wrong(prediction: str | None, truth: str) -> None:
    assert not is_right(prediction, truth)


@given(st.text(max_size=12))
def test_an_answer_equals_itself_and_nothing_raises(text: str) -> None:
    assert is_right(text, text) == bool(text.strip())
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(max_size=8), st.text(max_size=8))
def test_being_right_is_symmetric_for_two_answers(first: str, second: str) -> None:
    if first.strip() and second.strip():
        assert is_right(first, second) == is_right(second, first)


@given(st.floats(-1e6, 1e6), st.floats(-3e-4, 3e-4))
def test_numbers_within_the_tolerance(value: float, offset: float) -> None:
    prediction, truth = f"{value + offset:.9f}", f"{value:.9f}"
    difference = abs(float(prediction) - float(truth))
    if abs(difference - 1e-4) > 1e-8:
        assert is_right(prediction, truth) == (difference <= 1e-4)


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-3.5", -3.5), ("$1,234,567.8", 1234567.8), (".5", 0.5), ("1e-3", 0.001), ("0", 0), ("\u20ac 5", 5)],
)
def test_parse_number(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "twelve", "12 cats", "1,23", "12,34,567", "1e3", "007", "--1", "1.2.3", "%", "\u0663x"]
)
def test_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_choice_letter() -> None:
    assert choice_letter("(C) the red one") == ("c", "the red one")
    assert choice_letter("Answer: C") == ("c", "")
    assert choice_letter("red") is None
    assert choice_letter("A.B") is None


@pytest.mark.parametrize(
    ("prediction", "truth", "right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("-105", "-100", True),
        ("0", "0", True),
        ("0.01", "0", False),
        ("Yes", "yes", True),
        ("No", "yes", False),
        (None, "100", False),
    ],
)
def test_relaxed_accuracy_by_hand(prediction: str | None, truth: str, right: bool) -> None:
    assert is_right_relaxed(prediction, truth) is right


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_edit_distance_by_hand(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance == edit_distance(second, first)


def test_anls_by_hand() -> None:
    assert anls("Hello", ["hello"]) == 1
    assert anls("helo", ["hello", "goodbye"]) == pytest.approx(0.8)
    assert anls("he", ["hello"]) == 0  # 0.4 is below the threshold
    assert anls("ab", ["abcd"]) == 0.5  # at the threshold
    assert anls(None, ["hello"]) == 0
    assert anls("x", []) == 0


def test_answers_need_no_torch() -> None:
    code = "import sys, cv_lightning.grading.rules, cv_lightning.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
