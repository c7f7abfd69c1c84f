"""Saves every answer of a stage's test, so that runs can be compared on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.evaluation.answer_log import AnswerLog, make_record, record_key
from cv_lightning.evaluation.metrics import orientation_label
from cv_lightning.grading.benchmarks import Grade
from cv_lightning.reports.arms import WITHOUT_TOOLS
from cv_lightning.types import Rollouts


class Answers(Callback):
    """Writes the answers of a test to `<default_root_dir>/answers_<rank>.jsonl` as they come, and sends them to MLflow.

    They have the format of `python -m cv_lightning test --config experiments/robustness.yaml`; their condition is the
    label of the transforms (docs/evaluation.md). For modules whose `test_step` returns `{"rollouts": Rollouts}`.
    """

    _log: AnswerLog | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the log."""
        self._log = AnswerLog(self._folder(trainer), trainer.global_rank)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the answers of a batch."""
        policy = f"step {trainer.global_step}"
        records = []
        for trajectory, breakdown in self._rollouts(pl_module, outputs, batch, batch_idx).pairs:
            condition = orientation_label(trajectory.sample.transforms)
            key = record_key(trajectory.sample, condition, policy)
            grade = Grade(None if breakdown.is_right is None else float(breakdown.is_right))
            records.append(make_record(key, condition, policy, trajectory, grade))
        if self._log is not None:
            self._log.append(records)

    def _rollouts(self, module: Any, outputs: Any, batch: Any, batch_idx: int) -> Rollouts:
        rollouts: Rollouts = outputs["rollouts"]
        return rollouts

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the file."""
        if self._log is not None and self._log.path.exists():
            for logger in trainer.loggers:
                if hasattr(logger, "log_artifact"):
                    logger.log_artifact(self._log.path)
        self._log = None


class AnswersWithoutTools(Answers):
    """Asks some questions of a test again without tools, and writes the answers to the folder `without_tools`.

    Both sets of answers separate the gain from the harm of tools, on the same questions. For modules with
    `roll_out_without_tools` (`modules.base.PolicyModule`).

    Args:
        families: The families of those questions.
    """

    def __init__(self, families: Sequence[str]) -> None:
        self.families = tuple(families)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / WITHOUT_TOOLS

    def _rollouts(self, module: Any, outputs: Any, batch: Any, batch_idx: int) -> Rollouts:
        asked = [sample for sample in batch if sample.family in self.families]
        rollouts: Rollouts = module.roll_out_without_tools(asked, batch_idx) if asked else Rollouts([], [])
        return rollouts
