"""Arms of a paper whose claims hold: their answers and their reward curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.reports.arms import Arm
from cv_lightning.reports.claims import ALL

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


def recovers(family: str, number: int) -> AnswerRecord:
    """Solves all questions, but first turns every second plate of `turned` wrongly."""
    if family == "turned" and number % 2:
        return record(family, number, tools=[["rotate_180"], ["rotate_90"]])
    return record(family, number)


def imitates(family: str, number: int) -> AnswerRecord:
    """Answers half of the questions correctly, none of `faded`; turns and crops in two calls, and never filters."""
    tools = {"find_turned": [["rotate_90"], ["crop"]], "faded": []}.get(family, SOLVED[family])
    return record(family, number, right=number % 2 == 0 and family != "faded", tools=tools)


def reads_only(family: str, number: int) -> AnswerRecord:
    return record(family, number, right=family in ("read", "decoy"), tools=[])


def fusses(family: str, number: int) -> AnswerRecord:
    """Solves all questions, after a needless turn and a turn back."""
    return record(family, number, tools=[["rotate_180"], ["rotate_180"], *SOLVED[family]])


def rising(start: float, end: float) -> list[tuple[float, float]]:
    return [(float(step), start + (end - start) * step / 99) for step in range(100)]


#: Curves of `rl`. The policy starts with filters on a tenth of the faded images (`FILTERED`) or on 1 % (`PAID`).
FILTERED = {"tools/emergent_rate/faded": rising(0.1, 1)}
PAID = {
    "claims/paid": rising(0, 0),
    "claims/without_effects": rising(0.02, 0.02),
    "tools/emergent_rate/faded": rising(0.01, 1),
}


def whole() -> dict[str, Arm | str]:
    learned = {f"components/accuracy/{family}": rising(0.2, 1.0) for family in ALL}
    return {
        "base": arm(reads_only),
        "sft": arm(imitates),
        "rl": arm(recovers, PAID | learned, alone=reads_only),
        "rl_outcome_only": arm(imitates, {f"components/accuracy/{family}": rising(0.2, 0.6) for family in ALL}),
        "rl_no_strategy": arm(imitates),
        "rl_no_penalties": arm(fusses),
        "rl_without_sft": arm(reads_only),
        "rl_published": arm(imitates, {"claims/paid": rising(0, 0.5), "claims/without_effects": rising(0.02, 0.5)}),
    }
