"""Credit by the benchmarks' own rules, worked out by hand; the judge comes second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.errors import DataError
from cv_lightning.grading.benchmarks import RULES, Grade, grade
from cv_lightning.types import Sample


def ask(rule: str, answer: str, *alternatives: str) -> Sample:
    return Sample("s", "What?", (), answer, alternatives=alternatives, rule=rule)


@pytest.mark.parametrize(
    ("sample", "prediction", "score"),
    [
        (ask("match", "FJ7"), "fj7.", 1.0),
        (ask("match", "12"), "12.0", 1.0),
        (ask("match", "FJ7", "FJ 7"), "FJ 7", 1.0),
        (ask("match", "FJ7"), "FJ8", 0.0),
        (ask("choice", "B", "light blue"), "(B)", 1.0),
        (ask("choice", "B", "light blue"), "B. light blue", 1.0),
        (ask("choice", "B", "light blue"), "The answer is B", 1.0),
        (ask("choice", "B", "light blue"), "Light blue.", 1.0),
        (ask("choice", "B", "light blue"), "A. light blue", 0.0),
        (ask("choice", "B", "light blue"), "A", 0.0),
        (ask("relaxed", "100"), "104.9", 1.0),
        (ask("relaxed", "100"), "105.1", 0.0),
        (ask("relaxed", "Spain"), "spain", 1.0),
        (ask("anls", "hello"), "hallo", 0.8),
        (ask("anls", "hello"), "xyz", 0.0),
        (ask("anls", "hello", "hallo"), "hallo", 1.0),
        (ask("contains", "CENTRE"), "It says: Centre.", 1.0),
        (ask("contains", "two words"), "two\nwords", 1.0),
        (ask("contains", "CENTRE"), "CENTER", 0.0),
        (ask("contains", "x", "CENTRE"), "the centre", 1.0),
        (ask("contains_formula", "x ^ 2 + 1"), "y = x^2+1", 1.0),
        (ask("contains_formula", "X"), "x", 0.0),
        (ask("chartqapro:", "20"), "20.9%", 1.0),
        (ask("chartqapro:", "20"), "21.1", 0.0),
        (ask("chartqapro:", "0"), "0.01", 0.0),
        (ask("chartqapro:year", "2016"), "2015", 0.0),
        (ask("chartqapro:", "2016"), "2015", 1.0),
        (ask("chartqapro:", "hello"), "hallo", 0.8),
        (ask("chartqapro:,", "[Spain, 20]"), "['spain', 20.5]", 1.0),
        (ask("chartqapro:,", "[Spain, 20]"), "[spain]", 0.5),
        (ask("chartqapro:,", "[Spain, 20]"), "[spain, 20, 3, 4]", 0.5),
        (ask("chartqapro:year", "[2016, 2018]"), "[2016, 2019]", 0.5),
        (ask("chartqapro:,", "['a, b', c]"), '["a, b", "c"]', 1.0),
    ],
)
def test_rules_by_hand(sample: Sample, prediction: str, score: float) -> None:
    assert grade(sample, prediction) == Grade(pytest.approx(score))


@pytest.mark.parametrize("rule", [*RULES, "chartqapro:year,"])
@pytest.mark.parametrize("prediction", [None, "", "  \n"])
def test_no_answer_gets_no_credit_and_asks_no_judge(rule: str, prediction: str | None) -> None:
    def judge(*_: str) -> bool:
        raise AssertionError("asked")

    assert grade(ask(rule, "x"), prediction, judge) == Grade(0.0)


@given(st.sampled_from(sorted(RULES)), st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_credit_is_a_share_whatever_is_written(rule: str, prediction: str, truth: str) -> None:
    score = grade(ask(rule, truth), prediction).score
    assert score is not None
    assert 0.0 <= score <= 1.0


@given(st.sampled_from(sorted(set(RULES) - {"chartqapro"})), st.text("abcXYZ 0189.-", min_size=1).filter(str.strip))
def test_the_truth_itself_gets_full_credit(rule: str, truth: str) -> None:
    assert grade(ask(rule, truth), truth).score == 1.0


def test_the_judge_is_asked_only_where_the_rule_says_no() -> None:
    asked = []

    def judge(question: str, prediction: str, truth: str) -> bool | None:
        asked.append((question, prediction, truth))
        return {"a feline": True, "a dog": False, "broken": None}[prediction]

    sample = ask("match", "a cat")
    assert grade(sample, "A cat", judge) == Grade(1.0, "rule")
    assert grade(sample, "a feline", judge) == Grade(1.0, "judge")
    assert grade(sample, "a dog", judge) == Grade(0.0, "judge")
    assert grade(sample, "broken", judge) == Grade(None, "judge")
    assert asked == [("What?", prediction, "a cat") for prediction in ("a feline", "a dog", "broken")]
    near = ask("anls", "a cat")
    assert grade(near, "a dog", lambda *_: False).score == grade(near, "a dog").score, "partial credit stays"


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"Sample 's': there is no answer rule 'matsch'. Did you mean 'match'"):
        grade(ask("matsch", "x"), "x")
