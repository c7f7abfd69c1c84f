"""Each fault of an episode has its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cv_lightning.construction.checks import REASONS, Checks
from cv_lightning.construction.checks import leaks as answer_leaks
from cv_lightning.construction.episode import construct
from cv_lightning.construction.plan import EpisodePlan, PlannedStep, Planner
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.conversation import format_answer, format_tool_call, parse_reply
from cv_lightning.errors import ConfigError
from cv_lightning.types import CODE_TOOL, Trajectory, Turn
from sandbox import ToolExecutor
from tests.cv_lightning.construction.worlds import PAGES, PLATES

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
    """The requested turn, with the answer in its thought, its description or a comment."""

    def write(plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep, text: str) -> str:
        said = {place: f"The answer is {plan.sample.answer}."}
        code = f"result = image.rotate(270, expand=True)  # {said.get('comment', 'upright')}"
        arguments = {"code": code, "description": said.get("description", ""), "image_index": 0}
        return format_tool_call(said.get("thought", "Turned left."), CODE_TOOL, arguments)

    return write


def crops(dx: int, dy: int, more: int = 0) -> Write:
    """The requested crop, moved and enlarged."""

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
        ("2R5F6", "Below LINDEN is 2r5f6.", True),
        ("2R5F6", "Below LINDEN is a code.", False),
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


@pytest.mark.parametrize("settings", [{"min_iou": 2.0}, {"max_turn_chars": 2}, {"max_chars": 10}])
def test_checks_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="checks: expected"):
        Checks(**settings)
