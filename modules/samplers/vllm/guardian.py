"""Runs a server and ends all of its processes when the trainer ends, however that happens.

A program of its own, `python guardian.py TRAINER_PID COMMAND...`, so that no process outlives even a `kill -9` of
the trainer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

_LOOK_EVERY_S = 0.2
#: Seconds that the server gets to end by itself.
_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Run a command until it ends, this process is told to end, or the trainer is gone; returns its exit status.

    SIGINT ends the command at once; otherwise the command has time to end by itself.
    """
    trainer, command = int(arguments[0]), arguments[1:]
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: told.append(received))
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)  # noqa: S603
    while process.poll() is None and not told and os.getppid() == trainer:
        time.sleep(_LOOK_EVERY_S)
    if process.poll() is None and signal.SIGINT not in told:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)  # workers outlive a server that was killed
    return process.wait()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_parent() -> None:
    """In the child: if this program is killed, kill the server too."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
