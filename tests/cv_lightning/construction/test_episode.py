"""Episodes of the oracle agree with pixels and metadata."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.episode import construct
from cv_lightning.construction.plan import KINDS, Planner
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.evidence import gather_effects, iou
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, StopReason
from sandbox import ToolExecutor, orient
from tests.cv_lightning.construction.worlds import PAGES, PLATES

SOURCES = [PLATES, PAGES]


@given(index=st.integers(0, 2**30), kind=st.sampled_from(KINDS), toolbox=st.sampled_from(["code", "named"]))
def test_what_the_oracle_writes_is_kept(executor: ToolExecutor, index: int, kind: str, toolbox: Any) -> None:
    plan = Planner(SOURCES, shares={kind: 1.0}).plan(index)
    made = construct(plan, OracleTeacher(toolbox=toolbox), executor, Checks(min_iou=0.8))
    episode = made.trajectory
    assert made.fault is None
    assert episode.stop_reason is StopReason.ANSWERED
    assert len(episode.turns) == len(plan.steps)
    assert [turn.is_trained for turn in episode.turns] == [not step.is_fault for step in plan.steps]
    for turn, step in zip(episode.turns, plan.steps, strict=True):
        if step.is_fault:
            assert turn.observation is not None
            assert turn.observation.status == "error"
            assert turn.observation.text
    evidence = gather_effects(episode)
    assert evidence.used == set(plan.tools)
    if "crop" in plan.tools:
        last, box = episode.images[-1], plan.sample.box
        assert last.frame is not None
        assert box is not None
        assert iou(last.frame.box((0, 0, *last.image.size)), box) > 0.8
        boxes = [view.frame.box((0, 0, *view.image.size)) for view in episode.images if view.frame is not None]
        sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
        assert sorted(sizes, reverse=True) == sizes


def test_the_last_crop_shows_the_upright_answer_to_the_pixel(executor: ToolExecutor) -> None:
    for index in range(12):
        plan = Planner([PAGES], shares={"several_tools": 1.0}).plan(index)
        if plan.tools[-1] != "crop":
            continue
        made = construct(plan, OracleTeacher(), executor, Checks())
        upright = orient(plan.sample.images[0], plan.tools[0])
        source = PAGES.sample("train", plan.sample_index, ())
        assert upright.tobytes() == source.images[0].tobytes()
        assert made.trajectory.images[-1].image.tobytes() == upright.crop(source.box).tobytes()


def test_episodes_earn_the_full_reward(executor: ToolExecutor) -> None:
    for kind in ("single_tool", "several_tools", "no_tool"):
        plan = Planner(SOURCES, shares={kind: 1.0}).plan(7)
        episode = construct(plan, OracleTeacher(), executor, Checks()).trajectory
        (breakdown,) = score(Group(plan.sample, [episode]), RewardConfig())
        assert breakdown.is_right
        assert min(breakdown.terms.values()) >= 0


def test_long_episodes_are_rejected(executor: ToolExecutor) -> None:
    plan = Planner([PLATES], shares={"single_tool": 1.0}).plan(0)
    assert construct(plan, OracleTeacher(), executor, Checks(max_turn_chars=199, max_chars=200)).fault == "too_long"
