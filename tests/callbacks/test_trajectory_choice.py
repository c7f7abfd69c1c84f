"""The choice of trajectories to show."""

from __future__ import annotations

from PIL import Image

from callbacks.trajectory_choice import pick
from cv_lightning.types import Group, Reply, RewardBreakdown, Sample, ToolCall, Trajectory, Turn
from sandbox import Observation
from tests.callbacks.shown import group_of


def test_no_trajectory_is_picked_twice() -> None:
    group, breakdowns = group_of("x", [0.0, 1.0, 0.5])
    picked = pick([group], [breakdowns], 2)
    assert [(one.kind, one.breakdown.total) for one in picked] == [("best", 1.0), ("best", 0.5), ("worst", 0.0)]


def test_equal_rewards_are_shown_of_different_questions() -> None:
    pairs = [group_of(text, [1.0, 1.0, 0.0, 0.0]) for text in "abc"]
    picked = pick([group for group, _ in pairs], [breakdowns for _, breakdowns in pairs], 3)
    shown = {kind: [one.trajectory.sample.question for one in picked if one.kind == kind] for kind in ("best", "worst")}
    assert shown == {"best": ["a", "b", "c"], "worst": ["a", "b", "c"]}


def with_calls(text: str, *statuses: str, tools: tuple[str, ...] = ()) -> Trajectory:
    sample = Sample(text, text, (Image.new("RGB", (6, 4)),), "A")
    calls = [Turn("", Reply(call=ToolCall("")), Observation(status, tools=tools)) for status in statuses]  # type: ignore[arg-type]
    return Trajectory(sample, [*calls, Turn("", Reply(answer="A"))])


def test_each_kind_gets_its_part_and_groups_are_completed() -> None:
    plain, recovered = with_calls("a"), with_calls("a", "error", "ok")
    emergent = with_calls("a", "ok", tools=("blur",))
    group = Group(plain.sample, [plain, plain, recovered, emergent, plain, plain, plain])
    paid = [RewardBreakdown({"accuracy": total}, True) for total in (3.0, 0.0, 2.0, 2.0, 1.0, 1.0, 1.0)]
    picked = pick([group], [paid], 1, n_whole_groups=1)
    kinds = [one.kind for one in picked]
    assert kinds == ["best", "worst", "recovered", "emergent", "sampled", "mate", "mate"]
    assert [one.rollout for one in picked[:4]] == [0, 1, 2, 3]
    assert sorted(one.rollout for one in picked) == list(range(7))
