"""Ctrl-C during training: finishes the step, saves a checkpoint, and then stops."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.cli.checkpoints import save_whole


def resume_checkpoint(stage_folder: Path) -> Path | None:
    """The checkpoint from which training in `stage_folder` can continue: the newest `last*.ckpt`, else any, or None.

    There can be several: ModelCheckpoint counts up (`last-v1.ckpt`) if it finds a file that it did not write itself.
    """
    folder = stage_folder / "checkpoints"
    for pattern in ("last*.ckpt", "*.ckpt"):
        found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
        if found:
            return found[-1]
    return None


class CheckpointOnInterrupt(Callback):
    """Writes `<default_root_dir>/checkpoints/last.ckpt` if Ctrl-C is pressed during `fit`, then stops.

    A checkpoint from the middle of a step could hold half an update, so the first Ctrl-C waits for the end of the step.
    The second stops at once.

    Attributes:
        saved: The checkpoint that was written; None while there is none.
        folder: Folder of the run; None before the run starts.
    """

    def __init__(self) -> None:
        self.saved: Path | None = None
        self.folder: Path | None = None
        self._is_requested = False
        self._previous: Any = None
        self._owner = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the handler of Ctrl-C, only in the main thread: Python allows it nowhere else."""
        self.folder = Path(trainer.default_root_dir)
        if stage == "fit" and threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._previous = signal.signal(signal.SIGINT, self._request)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous handler."""
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the previous handler if training fails, because Lightning then calls no teardown."""
        self.release()

    def release(self) -> None:
        """Restore the previous handler of Ctrl-C."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save a checkpoint if Ctrl-C was pressed; raises `TrainingError` if it cannot be written."""
        # Ctrl-C can reach the processes of a run in different steps, but they must save together.
        if trainer.strategy.reduce_boolean_decision(self._is_requested, all=False):
            path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            save_whole(trainer, path)
            self.saved = path

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop before the next step: the metrics of the last step are logged after `on_train_batch_end`."""
        self._stop_if_saved()

    def on_train_end(self, *_: Any) -> None:
        """Stop after the last step too."""
        self._stop_if_saved()

    def _stop_if_saved(self) -> None:
        if self.saved is not None:
            raise KeyboardInterrupt

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked data worker: it ends with the trainer
            return
        if self._is_requested:
            raise KeyboardInterrupt
        self._is_requested = True
        print(
            "\nCtrl-C: finishing this step, then saving a checkpoint. Press again to stop at once.",
            file=sys.stderr,
            flush=True,
        )
