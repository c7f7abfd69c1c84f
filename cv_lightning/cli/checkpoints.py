"""Checkpoints that are never torn: written beside the old one, then put in its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning.pytorch import Trainer

from cv_lightning.errors import TrainingError


def save_whole(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint that is never torn; on all processes together.

    Raises:
        TrainingError: It cannot be written, in a run of one process; the one before is whole. Of several processes one
            would leave the others waiting, so there the `OSError` ends the run.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        trainer.save_checkpoint(new, weights_only=False)
        if trainer.is_global_zero:
            _put_in_place(new, path)
    except OSError as error:
        if trainer.world_size > 1:
            raise
        if not new.is_dir():
            new.unlink(missing_ok=True)  # half a checkpoint only takes room
        before = "The one before is whole" if path.exists() else "There is none before it"
        raise TrainingError(
            f"{path}: the checkpoint of step {trainer.global_step} cannot be written ({error.strerror or error}). "
            f"{before}. Make room, there and in the folder for temporary files."
        ) from error
    trainer.strategy.barrier("checkpoint")


def _put_in_place(new: Path, path: Path) -> None:
    """Replace a checkpoint in one step; a strategy that writes shards makes a folder, which takes two."""
    if new.is_dir():
        old = path.with_name(f"{path.name}.old")
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        return
    with new.open("rb") as file:
        os.fsync(file.fileno())  # else a machine that goes down can leave the new name with half its content
    new.replace(path)
