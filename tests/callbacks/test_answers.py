"""The answers of a stage's test are on disk, judged as its accuracy judges them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from callbacks.answers import Answers
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
