"""Metadata: the steps of each kind, and boxes that shrink onto the answer."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.construction.plan import KINDS, EpisodePlan, Planner, shrinking_boxes
from cv_lightning.data.worlds.family_world import FamilyWorld, MVToolProcedural
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import required_orientation

PLATES = PlateWorld(seed=3)
PAGES = FamilyWorld(seed=3)


def plans(kind: str, n: int = 30, **settings: Any) -> list[EpisodePlan]:
    planner = Planner([PLATES, PAGES], shares={kind: 1.0}, seed=4, **settings)
    return [planner.plan(index) for index in range(n)]


def content(plan: EpisodePlan) -> Any:
    return plan.metadata(), plan.steps, plan.sample.images[0].tobytes(), plan.sample.answer


@given(st.data())
def test_boxes_shrink_onto_the_answer(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(8, 900)), data.draw(st.integers(8, 900))
    x = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width)).filter(lambda v: v[0] < v[1])))
    y = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height)).filter(lambda v: v[0] < v[1])))
    count = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    boxes = shrinking_boxes((width, height), (x[0], y[0], x[1], y[1]), count, rng)
    assert len(boxes) == count
    for outer, inner in zip([(0, 0, width, height), *boxes], boxes, strict=False):
        assert outer[0] <= inner[0] < inner[2] <= outer[2]
        assert outer[1] <= inner[1] < inner[3] <= outer[3]
    last = boxes[-1]
    assert all(edge == int(edge) for box in boxes for edge in box)
    assert last == (math.floor(x[0]), math.floor(y[0]), math.ceil(x[1]), math.ceil(y[1]))


def test_no_tool_is_upright_and_needs_no_crop() -> None:
    for plan in plans("no_tool"):
        assert plan.sample.transforms == ()
        assert [step.tool for step in plan.steps] == ["answer"]


def test_single_tool_is_one_turn_or_one_crop() -> None:
    found = Counter(plan.tools for plan in plans("single_tool", 80))
    assert all(len(tools) == 1 for tools in found)
    assert {tools[0] for tools in found} == {
        "rotate_90",
        "rotate_180",
        "rotate_270",
        "flip_horizontal",
        "flip_vertical",
        "crop",
    }


def test_several_tools_turn_then_crop_or_turn_twice() -> None:
    found = {plan.tools for plan in plans("several_tools", 60)}
    assert all(len(tools) == 2 and tools[0] != "crop" for tools in found)
    assert any(tools[1] == "crop" for tools in found)
    twice = [plan for plan in plans("several_tools", 60) if plan.tools[1] != "crop"]
    assert {required_orientation(plan.sample) for plan in twice} == {"transpose", "transverse"}


def test_several_crops_end_at_the_box() -> None:
    found = plans("several_crops", max_crops=4)
    assert {len(plan.steps) - 1 for plan in found} == {2, 3, 4}
    for plan in found:
        assert set(plan.tools) == {"crop"}
        assert plan.steps[-2].box == plan.sample.box


def test_error_handling_fails_once_before_the_same_step_works() -> None:
    for plan in plans("error_handling"):
        (at,) = [number for number, step in enumerate(plan.steps) if step.is_fault]
        wrong, right = plan.steps[at : at + 2]
        assert (wrong.tool, wrong.box) == (right.tool, right.box)
        assert not right.is_fault


def test_a_plan_is_a_function_of_seed_index_and_attempt() -> None:
    first, again = Planner([PLATES, PAGES], seed=1), Planner([PLATES, PAGES], seed=1)
    for index in range(20):
        assert content(first.plan(index)) == content(again.plan(index))
        assert first.plan(index, 1).kind == first.kind_of(index)
        assert content(first.plan(index, 1)) != content(first.plan(index))
    assert [first.kind_of(index) for index in range(50)] != [Planner([PLATES], seed=2).kind_of(i) for i in range(50)]


def test_kinds_come_as_often_as_their_shares_say() -> None:
    shares = {"single_tool": 5.0, "several_tools": 3.0, "no_tool": 2.0}
    planner = Planner([PLATES], shares=shares)
    counts = Counter(planner.kind_of(index) for index in range(2000))
    assert {kind: round(counts[kind] / 200) for kind in KINDS if counts[kind]} == shares


def test_sources_come_as_often_as_their_weights_say() -> None:
    planner = Planner([PLATES, PAGES], [1, 3], shares={"single_tool": 1.0})
    counts = Counter(planner.plan(index).source for index in range(200))
    assert 30 <= counts["PlateWorld"] <= 75


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": []}, "at least one source"),
        ({"shares": {"crops": 1.0}}, "shares: expected weights"),
        ({"turn_weights": {"crop": 1.0}}, "turn_weights: expected weights"),
        ({"source_weights": [1, 2]}, "one for each of 1 sources"),
        ({"max_crops": 1}, "max_crops >= 2"),
        ({"first_index": -1}, "first_index >= 0"),
        ({"seed": -1}, "0 <= seed"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Planner(**({"sources": [PLATES]} | settings))


def test_a_source_that_ends_begins_again() -> None:
    planner = Planner([MVToolProcedural()], shares={"no_tool": 1.0}, split="test", first_index=999)
    found = [planner.plan(index) for index in range(6)]
    assert all(0 <= plan.sample_index < 1000 and plan.sample.transforms == () for plan in found)
    assert len({plan.sample_index for plan in found}) > 3


def test_plates_cannot_be_cropped() -> None:
    with pytest.raises(ConfigError, match=r"none of \d+ samples fits the kind 'several_crops'.*Set its share"):
        Planner([PLATES], shares={"several_crops": 1.0}).plan(0)
