"""Claims about answers made by hand: which answers reproduce a claim, reverse it, or cannot decide it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.reports.arms import Arm, Arms, missing
from cv_lightning.reports.claims import (
    CLAIMS,
    judge_claims,
    n_spurious,
    operations_per_call,
    right_after_mistake,
    solved_in_one_call,
    steps_to,
)
from tests.cv_lightning.reports.made_arms import (
    FILTERED,
    PAID,
    arm,
    fusses,
    imitates,
    reads_only,
    record,
    recovers,
    solves,
    whole,
)


def verdicts(arms: Mapping[str, Arm | str]) -> dict[str, str]:
    return {claim["name"]: claim["verdict"] for claim in judge_claims({0: arms})}


def test_a_paper_that_holds_is_reproduced_claim_by_claim() -> None:
    assert verdicts(whole()) == dict.fromkeys((claim.name for claim in CLAIMS), "reproduced")


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({"base": arm(solves)}, "brittleness", "not reproduced"),
        ({"base": arm(lambda f, n: record(f, n, right=f == "turned"))}, "brittleness", "reversed"),
        ({"rl": arm(imitates, PAID)}, "RL after SFT", "not reproduced"),
        ({"rl": arm(reads_only, PAID)}, "RL after SFT", "reversed"),
        ({"rl_outcome_only": arm(solves)}, "dense beats outcome only", "not reproduced"),
        ({"rl": arm(reads_only, PAID)}, "dense beats outcome only", "reversed"),
        ({"rl_no_strategy": arm(solves)}, "the strategy terms teach", "not reproduced"),
        ({"rl_no_penalties": arm(recovers)}, "penalties keep it lean", "not reproduced"),
        ({"rl": arm(fusses, PAID), "rl_no_penalties": arm(solves)}, "penalties keep it lean", "reversed"),
        ({"rl": arm(imitates, PAID), "rl_no_penalties": arm(fusses)}, "penalties keep it lean", "reversed"),
        ({"rl_without_sft": arm(imitates)}, "no cold start, no tools", "not reproduced"),
        ({"rl": arm(reads_only, PAID)}, "no cold start, no tools", "not reproduced"),  # nor with a cold start
        ({"rl": arm(imitates, PAID, alone=reads_only)}, "emergent tools", "not reproduced"),
        ({"sft": arm(solves)}, "emergent tools", "not reproduced"),  # right before RL
        ({"rl": arm(recovers, PAID | FILTERED, alone=reads_only)}, "emergent tools", "not reproduced"),  # before RL
        ({"rl": arm(imitates, PAID, alone=solves)}, "emergent tools", "reversed"),
        ({"rl": arm(solves, PAID)}, "emergent tools", "cannot be judged"),  # never asked without tools
        ({"sft": arm(solves)}, "chains", "not reproduced"),
        ({"sft": arm(solves), "rl": arm(imitates, PAID)}, "chains", "reversed"),
        ({"rl": arm(lambda f, n: record(f, n, right=False, outcomes=[False]), PAID)}, "recovery", "not reproduced"),
        ({"rl": arm(solves, PAID)}, "recovery", "cannot be judged"),  # made no mistakes
        ({"rl_published": arm(solves, PAID)}, "the released reward is hackable", "not reproduced"),
        ({"rl_published": arm(solves)}, "the released reward is hackable", "cannot be judged"),  # no curve
        (
            {"rl": arm(solves, {"claims/paid": [(0.0, 0.0), (1.0, 0.01)]})},
            "the released reward is hackable",
            "not reproduced",
        ),
    ],
)
def test_what_changes_a_verdict(changes: dict[str, Arm | str], name: str, verdict: str) -> None:
    assert verdicts(whole() | changes)[name] == verdict


def test_a_missing_arm_says_which_claims_it_takes_along() -> None:
    arms = whole()
    del arms["rl_no_penalties"]
    arms["rl_published"] = "its config has changed since it ran"
    judged = {claim["name"]: claim for claim in judge_claims({0: arms})}
    assert judged["penalties keep it lean"]["verdict"] == "cannot be judged"
    assert judged["penalties keep it lean"]["reason"] == "rl_no_penalties: the recipe has no such stage"
    assert judged["the released reward is hackable"]["reason"] == "rl_published: its config has changed since it ran"
    assert judged["brittleness"]["verdict"] == "reproduced"


def test_a_seed_that_failed_is_named() -> None:
    arms: Arms = {0: whole(), 1: whole() | {"rl": "failed: out of memory"}}
    assert missing(arms, ("rl", "sft")) == "rl of seed 1: failed: out of memory"
    judged = {claim["name"]: claim for claim in judge_claims(arms)}
    assert judged["RL after SFT"]["reason"] == "rl of seed 1: failed: out of memory"
    assert judged["brittleness"]["verdict"] == "reproduced"


def test_numbers_of_one_answer() -> None:
    assert n_spurious(record("turned", 0)) is None
    assert n_spurious(record("find", 0, tools=[["rotate_90"], ["rotate_270", "crop"]])) == 2
    assert operations_per_call(record("find_turned", 0)) == 2
    assert operations_per_call(record("find_turned", 0, tools=[["rotate_90"], ["crop"]])) == 1
    assert operations_per_call(record("read", 0)) is None
    assert solved_in_one_call(record("find_turned", 0)) == 1
    assert solved_in_one_call(record("find_turned", 0, right=False)) == 0


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (record("turned", 0), None),
        (record("turned", 0, tools=[["rotate_180"], ["rotate_270"]]), 1.0),
        (record("turned", 0, right=False, tools=[["rotate_180"]]), 0.0),
        (record("turned", 0, outcomes=[False, True]), 1.0),
        (record("find", 0, tools=[["crop"], ["crop"]]), 1.0),
        (record("small", 0), None),
        (record("small", 0, tools=[["crop"], ["crop"], ["crop"]]), 1.0),
        (record("find_turned", 0), None),
        (record("decoy", 0, tools=[["crop"]]), 1.0),
        (record("faded", 0), None),  # a filter is no mistake
    ],
)
def test_a_mistake_is_a_call_that_failed_or_did_not_help(one: AnswerRecord, expected: float | None) -> None:
    assert right_after_mistake(one) == expected


def test_steps_count_to_the_end_of_ten_that_are_good_enough() -> None:
    curve = [(float(step), 0.5 if step < 30 else 0.9) for step in range(60)]
    arms = [arm(solves, {"components/accuracy/find": curve}), arm(solves)]
    assert steps_to(arms, "find") == [[37.0], []]  # steps 28 to 37: two of 0.5 and eight of 0.9 have the mean 0.82
