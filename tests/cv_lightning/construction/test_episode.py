"""Episodes of the oracle hold against pixels and metadata; every way of being wrong has its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.construction.checks import REASONS, Checks
from cv_lightning.construction.checks import leaks as answer_leaks
from cv_lightning.construction.episode import construct
from cv_lightning.construction.plan import KINDS, EpisodePlan, PlannedStep, Planner
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.conversation import format_answer, format_tool_call, parse_reply
from cv_lightning.data.worlds.family_world import FamilyWorld
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import gather_effects, iou
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import CODE_TOOL, Group, StopReason, Trajectory, Turn
from sandbox import ToolExecutor, orient

PLATES = PlateWorld(seed=3)
PAGES = FamilyWorld(seed=3)
SOURCES = [PLATES, PAGES]


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor() as executor:
        yield executor


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


def test_words_and_spellings_vary(executor: ToolExecutor) -> None:
    planner = Planner([PLATES], shares={"single_tool": 1.0}, turn_weights={"rotate_90": 1.0})

    def first_turns(teacher: OracleTeacher) -> set[str]:
        made = [construct(planner.plan(index), teacher, executor, Checks()) for index in range(60)]
        assert all(each.fault is None for each in made)
        return {each.trajectory.turns[0].text for each in made}

    assert len(first_turns(OracleTeacher())) == 12
    assert len(first_turns(OracleTeacher(n_wordings=1, n_spellings=1))) == 1


Write = Callable[[EpisodePlan, Trajectory, PlannedStep, str], str]


@dataclass
class Spoiler(OracleTeacher):
    """The oracle, with one of its turns spoiled."""

    at: int = 0
    spoil: Write = lambda plan, trajectory, step, text: text

    def write(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str:
        text = super().write(plan, trajectory, step)
        return self.spoil(plan, trajectory, step, text) if len(trajectory.turns) == self.at else text


def runs(code: str, image_index: int = 0, reason: str = "I look closer.") -> Write:
    arguments = {"code": code, "description": "", "image_index": image_index}
    return lambda plan, trajectory, step, text: format_tool_call(reason, CODE_TOOL, arguments)


def says(text: str) -> Write:
    return lambda plan, trajectory, step, _: text


def leaks(place: str) -> Write:
    """The turn that is asked for, with the answer in its thought, its description or a comment."""

    def write(plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep, text: str) -> str:
        said = {place: f"The answer is {plan.sample.answer}."}
        code = f"result = image.rotate(270, expand=True)  # {said.get('comment', 'upright')}"
        arguments = {"code": code, "description": said.get("description", ""), "image_index": 0}
        return format_tool_call(said.get("thought", "Turned left."), CODE_TOOL, arguments)

    return write


def crops(dx: int, dy: int, more: int = 0) -> Write:
    """The crop that is asked for, moved and enlarged."""

    def write(plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep, text: str) -> str:
        assert step.box is not None
        x1, y1, x2, y2 = map(int, step.box)
        box = (max(0, x1 + dx - more), max(0, y1 + dy - more), x2 + dx + more, y2 + dy + more)
        return runs(f"result = image.crop({box})")(plan, trajectory, step, text)

    return write


@pytest.mark.parametrize(
    ("kind", "at", "spoil", "reason"),
    [
        ("single_tool", 0, says("Turned left."), "format"),
        ("single_tool", 0, says("<think>Turned."), "format"),
        ("single_tool", 0, says('<think>Turned.</think>\n<tool_call>{"name": 1}</tool_call>'), "format"),
        ("single_tool", 0, says("<answer>FJ7</answer>"), "format"),
        ("single_tool", 1, says(format_answer("Read <answer>4</answer> there.", "FJ7") + "\nDone."), "format"),
        ("single_tool", 0, runs("result = image", reason="Look at <image> there."), "markup"),
        ("single_tool", 0, runs("result = image", reason="It said <|im_end|>"), "markup"),
        ("single_tool", 0, runs("result = image", reason="long " * 1000), "too_long"),
        ("single_tool", 0, runs("result = image", reason="a"), "no_reasoning"),
        ("single_tool", 0, runs("result = image", reason="The metadata says rotate_90."), "mentions_metadata"),
        ("single_tool", 0, runs("result = image", reason="The box was given to me."), "mentions_metadata"),
        ("single_tool", 0, runs("result = image  # the ground truth"), "mentions_metadata"),
        ("single_tool", 1, says(format_answer("The answer provided to me is this.", "FJ7")), "mentions_metadata"),
        ("single_tool", 0, leaks("thought"), "answer_leaked"),
        ("single_tool", 0, leaks("description"), "answer_leaked"),
        ("single_tool", 0, leaks("comment"), "answer_leaked"),
        ("single_tool", 0, says(format_answer("It can be read.", "FJ7")), "answered_early"),
        ("single_tool", 1, runs("result = image.rotate(180)", 1), "no_answer"),
        ("single_tool", 0, runs("result = image.nothing()"), "call_failed"),
        ("single_tool", 0, runs("print('no result')"), "call_failed"),
        ("error_handling", 0, runs("result = image.rotate(180)"), "fault_worked"),
        ("single_tool", 0, runs("result = image.copy()"), "unchanged"),
        ("several_tools", 1, runs("result = image.rotate(180)", 0), "wrong_image"),
        ("single_tool", 0, runs("result = image.rotate(180)"), "not_restored"),
        ("single_tool", 0, runs("result = ImageOps.invert(image.rotate(270, expand=True))"), "not_restored"),
        ("single_tool", 0, runs("result = image.rotate(30)"), "unknown_frame"),
        ("single_tool", 1, says(format_answer("It can be read.", "no")), "wrong_answer"),
    ],
)
def test_each_fault_of_a_turn_has_its_name(
    kind: str, at: int, spoil: Write, reason: str, executor: ToolExecutor
) -> None:
    plan = Planner([PLATES], shares={kind: 1.0}, turn_weights={"rotate_90": 1.0}).plan(3)
    if kind == "error_handling":
        plan = replace(plan, steps=(replace(plan.steps[-2], is_fault=True), *plan.steps))
    made = construct(plan, Spoiler(at=at, spoil=spoil), executor, Checks())
    assert made.fault == reason
    assert reason in REASONS


@pytest.mark.parametrize(
    ("answer", "thought", "is_leak"),
    [
        ("7", "The answer is 7.", True),
        ("7", "I crop at 7 of 9.", False),
        ("yes", "Yes, it lies on its side.", False),
        ("yes", "The answer must be yes.", True),
        ("2R5F6", "Below LINDEN stands 2r5f6.", True),
        ("2R5F6", "Below LINDEN stands a code.", False),
        ("", "Nothing.", False),
    ],
)
def test_short_answers_are_leaked_where_they_are_called_so(answer: str, thought: str, is_leak: bool) -> None:
    text = format_tool_call(thought, CODE_TOOL, {"code": "result = image.crop((7, 7, 9, 9))", "image_index": 0})
    assert answer_leaks(Turn(text, parse_reply(text)), answer) == is_leak


@pytest.mark.parametrize(
    ("at", "spoil", "reason"),
    [
        (0, crops(9, 0), "crop_misses_box"),
        (0, crops(0, 0, 60), "crop_too_wide"),
        (0, crops(0, 0, 400), "crops_do_not_shrink"),
        (0, runs("result = image.crop((0, 0, 5, 5))"), "crop_misses_box"),
    ],
)
def test_each_fault_of_a_crop_has_its_name(at: int, spoil: Write, reason: str, executor: ToolExecutor) -> None:
    planner = Planner([PAGES], shares={"single_tool": 1.0})
    plan = next(plan for plan in map(planner.plan, range(50)) if plan.tools == ("crop",))
    made = construct(plan, Spoiler(at=at, spoil=spoil), executor, Checks())
    assert made.fault == reason


def test_tools_that_nothing_asks_for_are_an_option(executor: ToolExecutor) -> None:
    planner = Planner([PAGES], shares={"single_tool": 1.0})
    plan = next(plan for plan in map(planner.plan, range(50)) if plan.tools == ("crop",))
    assert plan.sample.box is not None
    box = tuple(map(int, plan.sample.box))
    code = f"result = ImageEnhance.Contrast(image.crop({box})).enhance(2.0)"
    teacher = Spoiler(spoil=runs(code))
    assert construct(plan, teacher, executor, Checks()).fault == "wrong_tools"
    assert construct(plan, teacher, executor, Checks(only_required_tools=False)).fault is None


def test_long_episodes_are_rejected(executor: ToolExecutor) -> None:
    plan = Planner([PLATES], shares={"single_tool": 1.0}).plan(0)
    assert construct(plan, OracleTeacher(), executor, Checks(max_turn_chars=199, max_chars=200)).fault == "too_long"


@pytest.mark.parametrize("settings", [{"min_iou": 2.0}, {"max_turn_chars": 2}, {"max_chars": 10}])
def test_checks_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="checks: expected"):
        Checks(**settings)
