"""The base of callbacks that measure a training step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.types import Rollouts


class RolloutCallback(Callback):
    """Calls `on_rollout` after each training step with rollouts, and adds the returned metrics to the step's metrics.

    For modules whose `training_step` returns `{"rollouts": Rollouts, "metrics": {name: number}}` and that log the
    metrics in their own `on_train_batch_end`, which Lightning calls after the callbacks (`modules.base.PolicyModule`).
    A step without rollouts (SFT) adds nothing.
    """

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Measure the rollouts of a training step; returns the metrics to log, all of which this step defines."""
        raise NotImplementedError

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass the rollouts on."""
        if "rollouts" in outputs:
            outputs["metrics"].update(self.on_rollout(trainer, pl_module, outputs["rollouts"]))
