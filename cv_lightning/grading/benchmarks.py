"""Scores an answer by the published rule of its benchmark, then by a judge if there is one.

This is the protocol of arXiv 2512.03746: the judge is asked only about answers that the rules do not call right. A
score is in [0, 1]; the accuracy of a benchmark is the mean of its scores, as its authors report it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import DataError
from cv_lightning.grading.judge import AnswerJudge
from cv_lightning.grading.rules import anls, comparison, is_right_relaxed
from cv_lightning.grading.tirbench import tirbench
from cv_lightning.types import Sample

#: (prediction, right answers, text after the colon in the rule's name) -> credit in [0, 1].
Rule = Callable[[str, Sequence[str], str], float]

#: If only right or wrong is needed, a partial score of at least this counts as right.
RIGHT_FROM = 0.5

_LIST_ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]+?))\s*(?:,|$)""")


@dataclass(frozen=True)
class Grade:
    """The score of an answer.

    Attributes:
        score: Credit in [0, 1]; None if the judge failed, in which case the answer is left out, not counted as wrong.
        by: "rule" or "judge".
        rule: The sample's rule. A name such as "match/sentence" adds the comparison that held (`rules.comparison`).
    """

    score: float | None
    by: str = "rule"
    rule: str = field(default="", compare=False)


def grade(sample: Sample, prediction: str | None, judge: AnswerJudge | None = None) -> Grade:
    """Grade an answer by the sample's rule; the judge is asked if the rule gives less than full credit.

    Raises:
        DataError: The sample names an unknown rule.
    """
    rule, argument = find_rule(sample)
    name, truths = sample.rule.partition(":")[0], (sample.answer, *sample.alternatives)
    if prediction is None or not prediction.strip():
        return Grade(0.0, rule=name)
    score = rule(prediction, truths, argument)
    held = [how for truth in truths if rule is _match and (how := comparison(prediction, truth))]
    name = f"{name}/{held[0]}" if held else name
    if score == 1.0 or judge is None:
        return Grade(score, rule=name)
    verdict = judge(sample.question, prediction, sample.answer)
    if verdict is None:
        return Grade(None, "judge", name)
    return Grade(1.0 if verdict else score, "judge", name)


def find_rule(sample: Sample) -> tuple[Rule, str]:
    """The rule of a sample and its argument; raises `DataError` if the rule is unknown."""
    name, _, argument = sample.rule.partition(":")
    if name not in RULES:
        raise DataError(f"Sample {sample.id!r}: there is no answer rule {name!r}. {did_you_mean(name, RULES)}")
    return RULES[name], argument


def _match(prediction: str, truths: Sequence[str], _: str) -> float:
    return float(any(comparison(prediction, truth) for truth in truths))


def _relaxed(prediction: str, truths: Sequence[str], _: str) -> float:
    return float(any(is_right_relaxed(prediction, truth) for truth in truths))


def _anls(prediction: str, truths: Sequence[str], _: str) -> float:
    return anls(prediction, list(truths))


def _contains(prediction: str, truths: Sequence[str], _: str) -> float:
    """OCRBench: the prediction contains a true answer; case is ignored."""
    text = prediction.casefold().strip().replace("\n", " ")
    return float(any(truth.casefold().strip().replace("\n", " ") in text for truth in truths if truth.strip()))


def _contains_formula(prediction: str, truths: Sequence[str], _: str) -> float:
    """OCRBench's handwritten formulas: case matters, spaces are ignored."""
    text = "".join(prediction.split())
    return float(any("".join(truth.split()) in text for truth in truths if truth.strip()))


def _chartqapro(prediction: str, truths: Sequence[str], years: str) -> float:
    """ChartQAPro: item by item, 5 % for numbers, ANLS for texts, exact if `years` (comma-separated) says "year".

    This matches the authors' published script. The script is also meant to compare "Fact Checking" and "Multi Choice"
    exactly, but does not pass that setting on. So neither is compared exactly here, and scores can be compared with
    published scores.
    """
    expected, given = _items(truths[0]), _items(prediction.strip().strip("."))
    is_year = [flag == "year" for flag in years.split(",")]
    is_year = is_year * len(expected) if len(is_year) < len(expected) else is_year
    scores = [
        float(truth.strip().casefold() == item.strip().casefold()) if exact else _chartqapro_item(item, truth)
        for truth, item, exact in zip(expected, given, is_year, strict=False)
    ]
    return sum(scores) / max(len(expected), len(given))


def _chartqapro_item(prediction: str, truth: str) -> float:
    prediction, truth = (text.strip().strip("%").strip() for text in (prediction, truth))
    numbers = [_float(text) for text in (prediction, truth)]
    if numbers[0] is None or numbers[1] is None:
        return anls(prediction, [truth])
    if numbers[1] == 0:
        return float(numbers[0] == 0)
    return float(abs(numbers[0] - numbers[1]) <= 0.05 * abs(numbers[1]))


def _items(text: str) -> list[str]:
    """The items of "[a, 'b']"; a text that is not a list is a single item."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]") and text[1:-1].strip()):
        return [text]
    return ["".join(groups) for groups in _LIST_ITEM.findall(text[1:-1])]


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


#: Rules by name. "choice" equals "match": the letter is the answer, and the option's text is an alternative.
RULES: dict[str, Rule] = {
    "match": _match,
    "choice": _match,
    "relaxed": _relaxed,
    "anls": _anls,
    "contains": _contains,
    "contains_formula": _contains_formula,
    "chartqapro": _chartqapro,
    "tirbench": tirbench,
}
