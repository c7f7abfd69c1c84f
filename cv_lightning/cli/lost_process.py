"""If one process of a run dies, the others end with a one-line message that says how to continue."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import subprocess_script

from cv_lightning.cli.interrupt import resume_checkpoint
from cv_lightning.errors import TrainingError, first_line

#: Words in torch's errors if another process of a run is gone: from gloo, NCCL's watchdog, and the store.
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe", "TCPStore")

#: Seconds that the first process has to notice the loss by itself; some collectives never notice it.
_NOTICE_S = 20.0


@contextmanager
def lost_process(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Inside this context, the loss of another process soon ends this one with a one-line message.

    Args:
        folder: Returns the folder of the run, or None if the run has not begun.

    Raises:
        TrainingError: Another process is gone.
    """

    def watch(children: list[subprocess.Popen[bytes]]) -> None:
        _Observer(children, folder).start()

    launcher, name = vars(subprocess_script), "_launch_process_observer"
    lightnings = launcher[name]
    launcher[name] = watch  # Lightning's observer kills this process before it can print its message
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST):
            raise
        raise _error(first_line(error)[:200], folder()) from error
    finally:
        launcher[name] = lightnings


class _Observer(_ChildProcessObserver):
    """Ends all processes if a child process has died and this process still waits for it."""

    def __init__(self, children: list[subprocess.Popen[bytes]], folder: Callable[[], Path | None]) -> None:
        super().__init__(os.getpid(), children)
        self._folder = folder

    def _run(self) -> bool:
        codes = [child.poll() for child in self._child_processes]
        lost = next((index for index, code in enumerate(codes) if code), None)
        if lost is None:
            return all(code == 0 for code in codes)
        time.sleep(_NOTICE_S)
        print(
            f"error: {_error(f'process {lost + 1}, status {codes[lost]}', self._folder())}", file=sys.stderr, flush=True
        )
        for child in self._child_processes:
            child.kill()
        os._exit(1)


def _error(fault: str, folder: Path | None) -> TrainingError:
    newest = resume_checkpoint(folder) if folder is not None else None
    remedy = f"Continue with --ckpt_path {newest}" if newest else "No checkpoint was saved yet"
    return TrainingError(
        f"A process of this run has ended or does not answer ({fault}). If it printed no error, it was "
        f"killed, most often because memory ran out. {remedy}."
    )
