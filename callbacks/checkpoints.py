"""A checkpoint to resume from, saved every so often, at the end, and when the process is terminated.

Lightning's ModelCheckpoint does not do this: with manual optimization it ignores its time interval, and its files are
moved from the system's temporary folder, so that an interrupted move can leave a broken file.
"""

from __future__ import annotations

import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.cli.checkpoints import finish_saving, is_saving, save_whole
from cv_lightning.errors import ConfigError, TrainingError

_RANDOM_STATE = "random_state"

#: Largest share of a run's time that saving may take.
_LARGEST_SHARE = 0.02


class LastCheckpoint(Checkpoint):
    """Keeps `<folder>/last.ckpt` up to date: the file is always complete and always from the end of a step.

    It is written every `every_seconds` or `every_steps`, at the end of `fit`, and on SIGTERM, which then ends the
    process with status 143. On Ctrl-C the command line writes the same file. A run that resumes from a checkpoint
    continues its MLflow run (`BackgroundMLflowLogger.resume`). With this callback every checkpoint holds the state of
    the random generators, so that a run of one process draws the same numbers as an uninterrupted run.

    If a save stops training for long, `every_seconds` grows until saves take 2 % of the time. A sharded run copies its
    state and writes it while training continues; `last.ckpt` is then a link to the newest complete folder.

    If a process cannot write it (a full disk), there is a warning, training continues, and the next save tries again;
    the run ends with an error only if the last save fails.

    Args:
        folder: Folder of `last.ckpt`; None takes `<default_root_dir>/checkpoints`.
        every_seconds: Seconds of training between two saves; 0 saves by steps only.
        every_steps: Optimizer steps between two saves; 0 saves by time only.

    Raises:
        ConfigError: A negative interval.
    """

    def __init__(self, folder: str | Path | None = None, every_seconds: float = 60.0, every_steps: int = 0) -> None:
        for name, value in (("every_seconds", every_seconds), ("every_steps", every_steps)):
            if value < 0:
                raise ConfigError(f"LastCheckpoint: {name}: expected 0 (never) or more, got {value}")
        self.folder = folder
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self._saved_at_s = 0.0
        self._took_s = 0.0
        self._saved_step = 0
        self._whole_step = 0
        self._tried_step = 0
        self._to_restore: dict[str, Any] | None = None

    def path(self, trainer: Trainer) -> Path:
        """Path of the checkpoint."""
        folder = Path(trainer.default_root_dir) / "checkpoints" if self.folder is None else Path(self.folder)
        return folder / "last.ckpt"

    def save(self, trainer: Trainer, in_background: bool = False) -> None:
        """Write the checkpoint beside the old one, then replace the old one."""
        started = time.monotonic()
        save_whole(trainer, self.path(trainer), in_background)
        self._took_s = time.monotonic() - started
        self._start_counting(trainer)

    def _start_counting(self, trainer: Trainer) -> None:
        self._saved_at_s, self._saved_step = time.monotonic(), trainer.global_step
        self._tried_step = self._saved_step

    # ---- when --------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here: a checkpoint that the run resumed from exists already."""
        self._start_counting(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save if it is due, and on SIGTERM; Lightning ends the run once the step is logged."""
        self._finish(trainer, waits=False)
        is_terminated = trainer.strategy.reduce_boolean_decision(trainer.received_sigterm, all=False)
        is_due = self._is_due(trainer.global_step) and not is_saving(trainer)
        if not is_terminated and not trainer.strategy.broadcast(is_due):
            return
        try:
            self.save(trainer, in_background=not is_terminated)
        except TrainingError as error:
            if is_terminated:
                raise
            self._saved_at_s, self._tried_step = time.monotonic(), trainer.global_step
            _warn(trainer, error)

    def _finish(self, trainer: Trainer, waits: bool) -> None:
        """Replace the old checkpoint by one that was written in the background."""
        if is_saving(trainer) and not waits:
            return
        try:
            finish_saving(trainer, self.path(trainer))
            self._whole_step = self._saved_step
        except TrainingError as error:
            self._saved_step = self._whole_step
            _warn(trainer, error)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to resume after SIGTERM, and end the process with 143: Lightning's 0 would mean success."""
        if isinstance(exception, SIGTERMException) and trainer.state.fn == TrainerFn.FITTING:
            exception.code = 128 + signal.SIGTERM
            print(f"terminated; continue with --ckpt_path {self.path(trainer)}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the steps after the last save."""
        self._finish(trainer, waits=True)
        if trainer.global_step > self._saved_step:
            self.save(trainer)

    def _is_due(self, step: int) -> bool:
        if self.every_steps and step // self.every_steps > self._tried_step // self.every_steps:
            return True
        wait_s = max(self.every_seconds, self._took_s / _LARGEST_SHARE)
        return bool(self.every_seconds) and time.monotonic() - self._saved_at_s >= wait_s

    # ---- random generators -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of the random generators."""
        if trainer.world_size == 1:
            checkpoint[_RANDOM_STATE] = _random_state()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for the first step, because loaders and start hooks draw numbers before it.

        The run in MLflow continues too, in training and in a test of the checkpoint.
        """
        for logger in trainer.loggers:
            if isinstance(logger, BackgroundMLflowLogger):
                logger.resume()
        if trainer.world_size == 1 and trainer.training:
            self._to_restore = checkpoint.get(_RANDOM_STATE)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore the random state, to draw the numbers that the interrupted run would have drawn."""
        if self._to_restore is not None:
            _restore_random_state(self._to_restore)
            self._to_restore = None


def _warn(trainer: Trainer, error: TrainingError) -> None:
    if trainer.is_global_zero:
        text = f"{error} Training continues and tries again at the next save."
        warnings.warn(text, UserWarning, stacklevel=3)


def _random_state() -> dict[str, Any]:
    """State of all generators, in types that torch loads without unpickling code."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
