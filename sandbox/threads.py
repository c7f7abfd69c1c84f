"""Work on images in threads: Pillow, NumPy and OpenCV release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCK = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of a call on each item, in order; raises the error of the first item that fails.

    Calls must not themselves call `spread`: they would wait for threads that wait for them.
    """
    if len(items) < 2 or count_cores() < 2:
        return [call(item) for item in items]
    with _LOCK:
        # A forked child inherits no threads, so it needs its own pool.
        pool = _pools.get(os.getpid())
        if pool is None:
            _pools.clear()
            pool = _pools[os.getpid()] = ThreadPoolExecutor(count_cores(), "images")
    return list(pool.map(call, items))


def _after_fork() -> None:
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
