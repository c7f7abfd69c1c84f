"""What the callbacks that look at rollouts share: when there is something new to look at."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.types import Group, RewardBreakdown


class RolloutCallback(Callback):
    """Calls `on_rollout` after each training step that made rollouts.

    They are read from the module's `last_trajectories` and `last_breakdowns`. What a validation left there is not of
    the training step and is not looked at; a module that trains without rollouts has nothing to show.
    """

    # A weak reference: the images of the step before must not outlive it for our sake.
    _before: weakref.ref[Group] | None = None

    def on_rollout(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        groups: Sequence[Group],
        breakdowns: Sequence[Sequence[RewardBreakdown]],
    ) -> None:
        """Look at the groups of a training step and their rewards, both in the same order."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what was there before."""
        groups = getattr(pl_module, "last_trajectories", None)
        self._before = weakref.ref(groups[0]) if groups else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on what is new."""
        groups = getattr(pl_module, "last_trajectories", None)
        if groups and (self._before is None or self._before() is not groups[0]):
            self.on_rollout(trainer, pl_module, groups, getattr(pl_module, "last_breakdowns", []))
