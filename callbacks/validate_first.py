"""Validation before the first step, so that curves begin with the policy that training starts from."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule


class ValidateFirst(Callback):
    """Runs the validation once before the first step (verl's `val_before_train`); a resumed run does not repeat it.

    Lightning's own sanity check logs nothing.

    Args:
        enabled: Whether the validation runs.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Validate as Lightning's training loop does between two steps."""
        if not self.enabled or trainer.global_step or not trainer.enable_validation:
            return
        connector = trainer._logger_connector
        trainer.validating, is_first = True, connector._first_loop_iter
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training, connector._first_loop_iter = True, is_first
