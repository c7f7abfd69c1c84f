"""The table of emergent tools: computed by hand, and unchanged by a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callbacks.emergent_tools import COLUMNS, EmergentTools
from cv_lightning.types import Group, RewardBreakdown, Rollouts
from tests.callbacks.calls import using
from tests.callbacks.steps import SAMPLE


def judged(is_right: bool | None) -> RewardBreakdown:
    return RewardBreakdown({"accuracy": float(is_right is True)}, is_right)


def step_one() -> Rollouts:
    """Two groups: a right answer with blur and a wrong one without; two answers with blur, one of them right."""
    return Rollouts(
        [Group(SAMPLE, [using("blur", "rotate_90"), using("crop")]), Group(SAMPLE, [using("blur"), using("blur")])],
        [[judged(True), judged(False)], [judged(True), judged(False)]],
    )


def test_a_row_compares_with_and_without() -> None:
    table = EmergentTools()
    assert table.add(step_one(), 7) == ["blur"]
    assert table.add(step_one(), 8) == []
    table.close_row(10)
    (row,) = table.rows
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "step": 10,
        "tool": "blur",
        "family": "enhancement",
        "first_step": 7,
        "trajectories": 8,
        "uses": 6,
        "rate": 0.75,
        "accuracy_with": pytest.approx(2 / 3),
        "accuracy_without": 0.0,
        "gain_within_groups": 1.0,
    }


def test_a_tool_that_is_not_used_any_more_keeps_its_row() -> None:
    table = EmergentTools()
    table.add(step_one(), 1)
    table.close_row(10)
    table.add(Rollouts([Group(SAMPLE, [using()])], [[judged(None)]]), 11)
    table.close_row(20)
    assert table.rows[1] == [20, "blur", "enhancement", 1, 1, 0, 0.0, None, None, None]


def test_a_resume_in_the_middle_of_a_row_changes_nothing(tmp_path: Path) -> None:
    straight = EmergentTools()
    for step in (1, 2):
        straight.add(step_one(), step)
    straight.close_row(3)
    before, after = EmergentTools(), EmergentTools()
    before.add(step_one(), 1)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.add(step_one(), 2) == []
    after.close_row(3)
    for table, name in ((straight, "a"), (after, "b")):
        table.write(tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert json.loads((tmp_path / "a").read_text())["columns"] == list(COLUMNS)


def test_rows_are_due_also_where_the_due_step_is_passed_over() -> None:
    table = EmergentTools()
    assert [table.is_due(step, 10) for step in (9, 12)] == [False, True]
    table.close_row(12)
    assert [table.is_due(step, 10) for step in (18, 20)] == [False, True]
