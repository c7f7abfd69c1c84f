"""Checkpoints that are never left half-written: each is written beside the old one and then replaces it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cv_lightning.errors import CheckpointError, TrainingError


def save_whole(trainer: Trainer, path: Path, in_background: bool = False) -> None:
    """Write a checkpoint that is never left half-written; all processes call it together.

    Args:
        trainer: Its state is written.
        path: The checkpoint: a file, or a link to the folder of a sharded run.
        in_background: Return once the state is copied, if the strategy supports it; `finish_saving` then replaces the
            old checkpoint.

    Raises:
        TrainingError: The checkpoint cannot be written; the previous checkpoint is intact. In an unsharded run of
            several processes the `OSError` itself is raised and ends the run: if one process cannot write, the others
            would wait forever.
    """
    strategy: Any = trainer.strategy
    is_sharded = hasattr(strategy, "in_background")
    new = _new_folder(path, trainer) if is_sharded else path.with_name(f"{path.name}.new")
    try:
        if is_sharded:
            strategy.finish_writing()
        if is_sharded and in_background:
            with strategy.in_background(lambda: _put_in_place(new, path)):
                trainer.save_checkpoint(new, weights_only=False)
            return
        trainer.save_checkpoint(new, weights_only=False)
        if trainer.is_global_zero:
            _put_in_place(new, path)
    except OSError as error:
        if trainer.world_size > 1 and not is_sharded:
            raise
        if trainer.is_global_zero:
            _remove(new)  # an incomplete checkpoint only takes space
        raise _cannot_write(trainer, path, error) from error
    strategy.barrier("checkpoint")


def is_saving(trainer: Trainer) -> bool:
    """Whether a checkpoint is being written in the background."""
    return bool(getattr(trainer.strategy, "is_writing", False))


def finish_saving(trainer: Trainer, path: Path) -> None:
    """Wait for the checkpoint that is being written in the background, if any, and replace the old one.

    Raises:
        TrainingError: The checkpoint cannot be written; the previous checkpoint is intact.
    """
    strategy: Any = trainer.strategy
    try:
        if hasattr(strategy, "finish_writing"):
            strategy.finish_writing()
    except OSError as error:
        raise _cannot_write(trainer, path, error) from error


def refuse_other_model(stored: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the shapes of a checkpoint with those of the model; raises `CheckpointError` if one differs."""
    for name in [*own, *stored]:
        if own.get(name) != stored.get(name):
            shapes = [part.get(name, "missing") for part in (stored, own)]
            raise CheckpointError(
                f"The checkpoint belongs to another model: {name} is {shapes[0]} in the checkpoint, {shapes[1]} in "
                "the policy. Use the config that wrote it, or another folder."
            )


def _cannot_write(trainer: Trainer, path: Path, error: OSError) -> TrainingError:
    before = "The previous checkpoint is intact" if path.exists() else "There is no earlier checkpoint"
    return TrainingError(
        f"{path}: the checkpoint of step {trainer.global_step} cannot be written ({error.strerror or error}). "
        f"{before}. Make room there and in the folder for temporary files."
    )


def _new_folder(path: Path, trainer: Trainer) -> Path:
    """A new folder name beside the link; folders of interrupted saves are removed."""
    in_use = path.resolve()
    if trainer.is_global_zero:
        for folder in path.parent.glob(f"{path.name}.step-*"):
            if folder.resolve() != in_use:
                _remove(folder)
    new = path.with_name(f"{path.name}.step-{trainer.global_step}")
    return new if new.resolve() != in_use else new.with_name(f"{new.name}-again")


def _put_in_place(new: Path, path: Path) -> None:
    """Replace a checkpoint in one step: a file by renaming, a folder by a link to it."""
    if new.is_dir():
        before = path.resolve()
        if path.is_dir() and not path.is_symlink():  # written by a version without links
            before = path.rename(path.with_name(f"{path.name}.old"))
        link = path.with_name(f"{path.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(new.name)
        link.replace(path)
        if before.resolve() != new.resolve():
            _remove(before)
        return
    with new.open("rb") as file:
        os.fsync(file.fileno())  # otherwise a crash of the machine can leave the new name with half its content
    new.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
