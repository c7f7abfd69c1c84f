"""Starts a process of ours that answers over a pipe, on any system."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: One thread per library, and a fixed hash seed in every process, so that results repeat.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


class Spawned:
    """A process and the pipe to it. The process imports the main module, so a script must guard the code that it runs.

    Args:
        serve: Function that runs in the process with the arguments and its end of the pipe.
        repeats: Whether equal calls must give equal results.

    Raises:
        Exception: The process does not start, or an argument cannot be pickled.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object, repeats: bool = False) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads and a GPU is not safe
        self.pipe, theirs = context.Pipe()
        with theirs, _environment(_ENVIRONMENT if repeats else {}):
            self._process: Any = context.Process(target=serve, args=(*arguments, theirs), daemon=True)
            self._process.start()

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return bool(self._process.is_alive())

    def end(self) -> None:
        """End the process at once, even if it is busy."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
