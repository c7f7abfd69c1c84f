"""The base of callbacks that measure a training step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.types import Rollouts


class RolloutCallback(Callback):
    """Calls `on_rollout` after each training step that made rollouts, and adds the numbers it returns to the step's.

    For modules whose `training_step` returns `{"rollouts": Rollouts, "metrics": {name: number}}` and that log the
    metrics in their own `on_train_batch_end`, which Lightning calls after the callbacks (`modules.base.PolicyModule`).
    A step without rollouts (SFT) shows nothing.
    """

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Look at the rollouts of a training step; returns the numbers to log, each defined in this step."""
        raise NotImplementedError

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on the rollouts."""
        if "rollouts" in outputs:
            outputs["metrics"].update(self.on_rollout(trainer, pl_module, outputs["rollouts"]))
