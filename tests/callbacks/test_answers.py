"""A stage's test saves its answers to disk, with the verdicts that its accuracy uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from callbacks.answers import Answers, AnswersWithoutTools
from cv_lightning.evaluation.answer_log import AnswerLog
from cv_lightning.types import (
    Group,
    Reply,
    RewardBreakdown,
    Rollouts,
    Sample,
    StopReason,
    Trajectory,
    Turn,
    ViewedImage,
)


def rolled_out(identity: str, transforms: tuple[str, ...], is_right: bool | None) -> tuple[Group, RewardBreakdown]:
    image = Image.new("RGB", (6, 4), "red")
    sample = Sample(identity, "Read.", (image,), "F7", transforms, source="PlateWorld")
    turns = [Turn("<answer>F7</answer>", Reply(answer="F7"))]
    trajectory = Trajectory(sample, turns, [ViewedImage(image, 0, None, None)], stop_reason=StopReason.ANSWERED)
    return Group(sample, [trajectory]), RewardBreakdown({"accuracy": 1.0}, is_right)


def run(folder: Path, step: int, *rolled: tuple[Group, RewardBreakdown]) -> list[str]:
    sent: list[str] = []
    logger = SimpleNamespace(log_artifact=lambda path: sent.append(path.name))
    trainer: Any = SimpleNamespace(
        default_root_dir=str(folder), global_rank=0, global_step=step, loggers=[logger, object()]
    )
    module: Any = SimpleNamespace()
    rollouts = Rollouts([group for group, _ in rolled], [[breakdown] for _, breakdown in rolled])
    answers = Answers()
    answers.on_test_start(trainer, module)
    answers.on_test_batch_end(trainer, module, {"rollouts": rollouts}, None, 0)
    answers.on_test_end(trainer, module)
    return sent


def test_answers_are_kept_by_condition_with_their_scores(tmp_path: Path) -> None:
    sent = run(
        tmp_path,
        400,
        rolled_out("a", (), True),
        rolled_out("a", ("rotate_90",), False),
        rolled_out("b", ("flip_horizontal",), None),
    )
    assert sent == ["answers_0.jsonl"]
    records = list(AnswerLog(tmp_path).records.values())
    assert [(record.item, record.condition, record.score) for record in records] == [
        ("PlateWorld#a", "upright", 1.0),
        ("PlateWorld#a", "rot90", 0.0),
        ("PlateWorld#b", "hflip", None),
    ]


def test_a_second_test_of_the_same_step_replaces_the_first(tmp_path: Path) -> None:
    run(tmp_path, 400, rolled_out("a", (), False))
    run(tmp_path, 400, rolled_out("a", (), True))
    run(tmp_path, 500, rolled_out("a", (), False))
    records = AnswerLog(tmp_path).records.values()
    assert [(record.policy, record.score) for record in records] == [("step 400", 1.0), ("step 500", 0.0)]


def test_a_module_without_rollouts_has_no_answers(tmp_path: Path) -> None:
    assert run(tmp_path, 1) == []
    assert not list(tmp_path.iterdir())


def test_some_families_are_asked_again_without_tools(tmp_path: Path) -> None:
    asked: list[tuple[list[str], int]] = []
    faded, other = rolled_out("faded-1", (), True), rolled_out("read-1", (), True)
    samples = [replace(group.sample, family=group.sample.id.partition("-")[0]) for group, _ in (faded, other)]

    def roll_out_without_tools(again: list[Sample], seed: int) -> Rollouts:
        asked.append(([sample.id for sample in again], seed))
        group, breakdown = faded
        return Rollouts([group], [[replace(breakdown, is_right=False)]])

    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path), global_rank=0, global_step=7, loggers=[])
    module: Any = SimpleNamespace(roll_out_without_tools=roll_out_without_tools)
    callback = AnswersWithoutTools(["faded"])
    callback.on_test_start(trainer, module)
    callback.on_test_batch_end(trainer, module, {}, samples, 3)
    callback.on_test_batch_end(trainer, module, {}, samples[1:], 4)
    callback.on_test_end(trainer, module)
    assert asked == [(["faded-1"], 3)]
    (record,) = AnswerLog(tmp_path / "without_tools").records.values()
    assert (record.id, record.score) == ("faded-1", 0.0)
    assert not list(tmp_path.glob("answers_*"))
