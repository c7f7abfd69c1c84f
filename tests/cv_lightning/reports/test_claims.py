"""Claims about answers made by hand: what each needs, what reverses it, and when it cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.errors import DataError
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.reports.arms import Arm, Arms, differences, missing, read_arm, values
from cv_lightning.reports.claim_tables import claim_tables, finding_rows
from cv_lightning.reports.claims import (
    ALL,
    CLAIMS,
    is_right,
    judge_claims,
    n_spurious,
    operations_per_call,
    right_after_mistake,
    solved_in_one_call,
    steps_to,
)

REQUIRED = {"turned": ["rotate_90"], "find": ["crop"], "find_turned": ["crop", "rotate_90"], "small": ["crop"]}
#: The calls of a policy that solves each family in the right way.
SOLVED: dict[str, list[list[str]]] = {
    "read": [],
    "turned": [["rotate_90"]],
    "find": [["crop"]],
    "find_turned": [["rotate_90", "crop"]],
    "small": [["crop"], ["crop"]],
    "faded": [["autocontrast"]],
    "decoy": [],
}
N = 40  # questions of each family


def record(family: str, number: int, right: bool = True, **changes: Any) -> AnswerRecord:
    tools = changes.get("tools", SOLVED[family])
    facts: dict[str, Any] = {
        "key": f"{family}{number}",
        "item": f"StrategyWorld#{family}-0-test-{number}",
        "id": f"{family}-0-test-{number}",
        "condition": "upright",
        "policy": "step 1",
        "family": family,
        "truth": "F7G",
        "answer": "F7G" if right else "777",
        "score": float(right),
        "graded_by": "rule",
        "graded_for": "",
        "stop_reason": "answered",
        "turns": ["<think>Upright.</think>\n<answer>F7G</answer>"],
        "n_calls": len(tools),
        "outcomes": [True] * len(tools),
        "tools": tools,
        "is_restored": True,
        "required": REQUIRED.get(family, []),
        "used": sorted({tool for call in tools for tool in call}),
        "crop_iou": None,
    }
    return AnswerRecord(**{**facts, **changes})


Make = Callable[[str, int], AnswerRecord]


def arm(make: Make, curves: Mapping[str, Any] | None = None, alone: Make | None = None) -> Arm:
    answers = [make(family, number) for family in ALL for number in range(N)]
    without = [] if alone is None else [alone("faded", number) for number in range(N)]
    return Arm(Path("arm"), {a.id: a for a in answers}, {a.id: a for a in without}, curves or {})


def solves(family: str, number: int) -> AnswerRecord:
    return record(family, number)


def mends(family: str, number: int) -> AnswerRecord:
    """Solves all, but every second time it turns the plate wrongly first."""
    if family == "turned" and number % 2:
        return record(family, number, tools=[["rotate_180"], ["rotate_90"]])
    return record(family, number)


def imitates(family: str, number: int) -> AnswerRecord:
    """Half of what it answers is right; it turns and crops in two calls and never filters."""
    tools = {"find_turned": [["rotate_90"], ["crop"]], "faded": []}.get(family, SOLVED[family])
    return record(family, number, right=number % 2 == 0 and family != "faded", tools=tools)


def reads_only(family: str, number: int) -> AnswerRecord:
    return record(family, number, right=family in ("read", "decoy"), tools=[])


def fusses(family: str, number: int) -> AnswerRecord:
    """Solves all with a needless turn and another one back."""
    return record(family, number, tools=[["rotate_180"], ["rotate_180"], *SOLVED[family]])


def rising(start: float, end: float) -> list[tuple[float, float]]:
    return [(float(step), start + (end - start) * step / 99) for step in range(100)]


PAID = {"claims/paid": rising(0, 0), "claims/without_effects": rising(0.02, 0.02)}


def whole() -> dict[str, Arm | str]:
    learned = {f"components/accuracy/{family}": rising(0.2, 1.0) for family in ALL}
    return {
        "base": arm(reads_only),
        "sft": arm(imitates),
        "rl": arm(mends, PAID | learned, alone=reads_only),
        "rl_outcome_only": arm(imitates, {f"components/accuracy/{family}": rising(0.2, 0.6) for family in ALL}),
        "rl_no_strategy": arm(imitates),
        "rl_no_penalties": arm(fusses),
        "rl_without_sft": arm(reads_only),
        "rl_published": arm(imitates, {"claims/paid": rising(0, 0.5), "claims/without_effects": rising(0.02, 0.5)}),
    }


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
        ({"rl_no_penalties": arm(mends)}, "penalties keep it lean", "not reproduced"),
        ({"rl": arm(fusses, PAID), "rl_no_penalties": arm(solves)}, "penalties keep it lean", "reversed"),
        ({"rl": arm(imitates, PAID), "rl_no_penalties": arm(fusses)}, "penalties keep it lean", "reversed"),
        ({"rl_without_sft": arm(imitates)}, "no cold start, no tools", "not reproduced"),
        ({"rl": arm(reads_only, PAID)}, "no cold start, no tools", "not reproduced"),  # nor with one
        ({"rl": arm(imitates, PAID, alone=reads_only)}, "emergent tools", "not reproduced"),
        ({"sft": arm(solves)}, "emergent tools", "not reproduced"),  # the filter was there before
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


def test_pairs_are_the_questions_that_both_were_asked() -> None:
    first, second = arm(solves), arm(imitates)
    kept = {key: answer for key, answer in second.answers.items() if not key.endswith("-0")}
    arms: Arms = {0: {"a": first, "b": Arm(Path(), kept)}}
    (changes,) = differences(arms, "a", "b", ("find",), is_right)
    assert len(changes) == N - 1
    assert sum(changes) == N // 2
    assert values(arms, "b", ("find",), is_right) == [[float(number % 2 == 0) for number in range(1, N)]]


def test_steps_count_to_the_end_of_ten_that_are_good_enough() -> None:
    curve = [(float(step), 0.5 if step < 30 else 0.9) for step in range(60)]
    arms = [arm(solves, {"components/accuracy/find": curve}), arm(solves)]
    assert steps_to(arms, "find") == [[37.0], []]  # 28 to 37: two of 0.5 and eight of 0.9 have the mean 0.82


def test_an_arm_is_read_from_its_folder(tmp_path: Path) -> None:
    def write(folder: Path, *records: AnswerRecord) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answers_0.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in records))

    with pytest.raises(DataError, match=r"no answers of a test"):
        read_arm(tmp_path)
    write(
        tmp_path, record("read", 0, policy="step 1", key="old"), record("read", 1), record("read", 0, policy="step 2")
    )
    write(tmp_path / "without_tools", record("faded", 0))
    (tmp_path / "metrics.csv").write_text("step,claims/paid\n0,0.0\n1,0.5\n")
    found = read_arm(tmp_path)
    assert [answer.policy for answer in found.answers.values()] == ["step 2"]
    assert list(found.alone) == ["faded-0-test-0"]
    assert found.curves["claims/paid"] == [(0.0, 0.0), (1.0, 0.5)]


def test_tables_show_each_claim_and_its_numbers() -> None:
    report = {"claims": judge_claims({0: whole()})}
    (summary,) = claim_tables(report)
    assert [row[0] for row in summary.rows] == [claim.name for claim in CLAIMS]
    rows = finding_rows(report["claims"][0])
    assert rows[0][1] == "100.0 %"
    assert rows[0][3:] == ["at least 97 %", "reproduced"]
    assert claim_tables({}) == ()
    example = report["claims"][6]["example"]
    assert (example["arm"], example["id"]) == ("rl", "faded-0-test-0")
