"""The rules by which a claim counts as reproduced: from numbers of questions to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Literal

from cv_lightning.evaluation.intervals import nested_interval

#: How a number is displayed: see `Finding`.
Unit = Literal["%", "points", ""]

#: With fewer answers, a share is no evidence.
MIN_ANSWERS = 20


class Verdict(StrEnum):
    """The outcome of a claim according to its numbers."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    REVERSED = "reversed"
    NOT_JUDGED = "cannot be judged"


@dataclass(frozen=True)
class Finding:
    """A number with its interval, and the condition that it must meet.

    Attributes:
        text: Description of the number.
        value: The mean over questions and seeds; None if there are none.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        needed: The condition of the claim, in words; "" for a number that is only shown.
        verdict: Whether the condition is met; None for a number that is only shown.
        unit: "%" for a share, "points" for a difference of shares, both times 100; "" for any other number.
    """

    text: str
    value: float | None
    low: float | None
    high: float | None
    needed: str = ""
    verdict: Verdict | None = None
    unit: Unit = "%"


def exceeds(text: str, by_seed: Sequence[Sequence[float]], least: float = 0.0, *, unit: Unit = "points") -> Finding:
    """A difference that must be above 0, and at least `least`: reversed if its interval is below 0."""

    def judge(value: float, low: float, high: float) -> Verdict:
        if low > 0 and value >= least:
            return Verdict.REPRODUCED
        return Verdict.REVERSED if high < 0 else Verdict.NOT_REPRODUCED

    needed = "interval above 0" + (f", at least {_shown(least, unit)}" if least else "")
    return _difference(text, by_seed, needed, judge, unit)


def falls(text: str, by_seed: Sequence[Sequence[float]], *, unit: Unit = "points") -> Finding:
    """A difference that must be below 0: reversed if its interval is above 0."""

    def judge(value: float, low: float, high: float) -> Verdict:
        if high < 0:
            return Verdict.REPRODUCED
        return Verdict.REVERSED if low > 0 else Verdict.NOT_REPRODUCED

    return _difference(text, by_seed, "interval below 0", judge, unit)


def is_not_lower(text: str, by_seed: Sequence[Sequence[float]]) -> Finding:
    """A difference whose interval must not lie below 0: reversed if it does."""

    def judge(value: float, low: float, high: float) -> Verdict:
        return Verdict.REPRODUCED if high >= 0 else Verdict.REVERSED

    return _difference(text, by_seed, "interval not below 0", judge, "points")


def _difference(
    text: str,
    by_seed: Sequence[Sequence[float]],
    needed: str,
    judge: Callable[[float, float, float], Verdict],
    unit: Unit,
) -> Finding:
    if not any(map(len, by_seed)):
        return Finding(f"{text} (no answer has it)", None, None, None, needed, Verdict.NOT_JUDGED, unit)
    value, low, high = nested_interval(by_seed, is_difference=True)
    return Finding(text, value, low, high, needed, judge(value, low, high), unit)


def at_least(text: str, by_seed: Sequence[Sequence[float]], bound: float, n_least: int = MIN_ANSWERS) -> Finding:
    """A share that must be at least `bound`; with fewer than `n_least` answers it is not judged."""
    return _share(text, by_seed, f"at least {_shown(bound)}", n_least, lambda value: value >= bound)


def at_most(text: str, by_seed: Sequence[Sequence[float]], bound: float, n_least: int = MIN_ANSWERS) -> Finding:
    """A share that must be at most `bound`; with fewer than `n_least` answers it is not judged."""
    return _share(text, by_seed, f"at most {_shown(bound)}", n_least, lambda value: value <= bound)


def shown(text: str, by_seed: Sequence[Sequence[float]], *, unit: Unit = "%") -> Finding:
    """A number without a verdict."""
    if not any(map(len, by_seed)):
        return Finding(text, None, None, None, unit=unit)
    return Finding(text, *nested_interval(by_seed, is_difference=unit != "%"), unit=unit)


def overall(findings: Sequence[Finding]) -> Verdict:
    """The verdict of a claim is its worst finding's: first reversed, then not judged, then not reproduced."""
    verdicts = {finding.verdict for finding in findings} - {None}
    for verdict in (Verdict.REVERSED, Verdict.NOT_JUDGED, Verdict.NOT_REPRODUCED):
        if verdict in verdicts:
            return verdict
    return Verdict.REPRODUCED if verdicts else Verdict.NOT_JUDGED


def _share(
    text: str, by_seed: Sequence[Sequence[float]], needed: str, n_least: int, holds: Callable[[float], bool]
) -> Finding:
    n = sum(map(len, by_seed))
    if n < n_least:
        few = f"{needed}, of at least {n_least} answers"
        value = fmean(number for of_seed in by_seed for number in of_seed) if n else None
        return Finding(f"{text} (only {n} answers)", value, None, None, few, Verdict.NOT_JUDGED)
    value, low, high = nested_interval(by_seed)
    return Finding(text, value, low, high, needed, Verdict.REPRODUCED if holds(value) else Verdict.NOT_REPRODUCED)


def _shown(value: float, unit: Unit = "%") -> str:
    return f"{100 * value:g} {unit}" if unit else f"{value:g}"
