"""Every rule by which a claim counts as reproduced, with numbers made by hand."""

from __future__ import annotations

import pytest

from cv_lightning.reports.verdicts import (
    Finding,
    Verdict,
    at_least,
    at_most,
    exceeds,
    falls,
    is_not_lower,
    overall,
    shown,
)

REPRODUCED, NOT, REVERSED, NOT_JUDGED = Verdict

#: 100 paired differences of right (1) and wrong (0) answers: 40, 0, 2 and -40 points; the interval of 2 contains 0.
BETTER = [[1.0] * 45 + [-1.0] * 5 + [0.0] * 50]
EQUAL = [[0.0] * 100]
UNSURE = [[1.0] * 6 + [-1.0] * 4 + [0.0] * 90]
WORSE = [[-value for value in BETTER[0]]]


@pytest.mark.parametrize(
    ("by_seed", "least", "verdict"),
    [
        (BETTER, 0.0, REPRODUCED),
        (BETTER, 0.4, REPRODUCED),
        (BETTER, 0.41, NOT),  # above 0 but too small
        (UNSURE, 0.0, NOT),
        (EQUAL, 0.0, NOT),
        (WORSE, 0.0, REVERSED),
        ([[]], 0.0, NOT_JUDGED),
    ],
)
def test_a_gain_needs_an_interval_above_0(by_seed: list[list[float]], least: float, verdict: Verdict) -> None:
    assert exceeds("gain", by_seed, least).verdict == verdict


@pytest.mark.parametrize(
    ("by_seed", "verdict"),
    [(WORSE, REPRODUCED), (UNSURE, NOT), (EQUAL, NOT), (BETTER, REVERSED), ([[], []], NOT_JUDGED)],
)
def test_a_saving_needs_an_interval_below_0(by_seed: list[list[float]], verdict: Verdict) -> None:
    assert falls("calls", by_seed).verdict == verdict


@pytest.mark.parametrize(
    ("by_seed", "verdict"),
    [(BETTER, REPRODUCED), (UNSURE, REPRODUCED), (EQUAL, REPRODUCED), (WORSE, REVERSED), ([[]], NOT_JUDGED)],
)
def test_an_accuracy_that_is_not_lower_reaches_0(by_seed: list[list[float]], verdict: Verdict) -> None:
    assert is_not_lower("accuracy", by_seed).verdict == verdict


@pytest.mark.parametrize(
    ("n_right", "bound", "verdict"), [(97, 0.97, REPRODUCED), (96, 0.97, NOT), (100, 1.0, REPRODUCED), (0, 0.5, NOT)]
)
def test_a_share_is_held_against_its_lower_bound(n_right: int, bound: float, verdict: Verdict) -> None:
    finding = at_least("upright", [[1.0] * n_right + [0.0] * (100 - n_right)], bound)
    assert finding.verdict == verdict
    assert finding.value == n_right / 100
    assert finding.low is not None
    assert finding.high is not None
    assert finding.low <= n_right / 100 <= finding.high
    assert finding.high > finding.low  # even all right or all wrong is not certain
    assert finding.needed == f"at least {100 * bound:g} %"


@pytest.mark.parametrize(("n_right", "verdict"), [(15, REPRODUCED), (16, NOT), (0, REPRODUCED), (100, NOT)])
def test_a_share_is_held_against_its_upper_bound(n_right: int, verdict: Verdict) -> None:
    assert at_most("turned", [[1.0] * n_right + [0.0] * (100 - n_right)], 0.15).verdict == verdict


def test_too_few_answers_are_no_evidence() -> None:
    finding = at_least("recovery", [[1.0] * 10, [1.0] * 9], 0.8)
    assert finding.verdict == NOT_JUDGED
    assert finding.text == "recovery (only 19 answers)"
    assert finding.low is None
    assert at_least("recovery", [[1.0] * 10, [1.0] * 10], 0.8).verdict == REPRODUCED
    assert at_most("paid", [[0.0]], 0.0, n_least=1).verdict == REPRODUCED
    assert at_least("recovery", [[], []], 0.8).value is None


def test_seeds_weigh_the_same_and_their_spread_counts() -> None:
    close = exceeds("gain", [[0.1, 0.3] * 50, [0.1, 0.3] * 50])
    apart = exceeds("gain", [[0.5, 0.7] * 50, [-0.3, -0.1] * 50])
    assert close.value == pytest.approx(0.2)
    assert apart.value == pytest.approx(0.2)
    assert close.verdict == REPRODUCED
    assert apart.verdict == NOT  # one of two seeds lost
    assert at_least("share", [[1.0] * 10, [0.0] * 1000], 0.5).value == 0.5


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([REPRODUCED, None, REPRODUCED], REPRODUCED),
        ([REPRODUCED, NOT], NOT),
        ([REPRODUCED, NOT, REVERSED], REVERSED),
        ([REPRODUCED, NOT_JUDGED], NOT_JUDGED),
        ([NOT, NOT_JUDGED], NOT_JUDGED),
        ([NOT_JUDGED, REVERSED], REVERSED),
        ([None], NOT_JUDGED),
        ([], NOT_JUDGED),
    ],
)
def test_a_claim_is_as_good_as_its_worst_finding(verdicts: list[Verdict | None], expected: Verdict) -> None:
    findings = [Finding("", 0.0, 0.0, 0.0, verdict=verdict) for verdict in verdicts]
    assert overall(findings) == expected


def test_a_shown_number_has_no_verdict() -> None:
    assert shown("sft", [[1.0, 0.0]]).verdict is None
    assert shown("steps", [[], []]).value is None
