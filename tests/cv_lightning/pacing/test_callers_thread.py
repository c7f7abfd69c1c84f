"""If the caller ends for any reason, the coroutine in the other thread ends, and nothing waits forever."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import pytest

from cv_lightning.pacing.callers_thread import CallersThread

pytestmark = pytest.mark.timeout(60)


class InterruptedAgain:
    """Raises one interrupt when `serve` enters its n-th function from now on, as a signal could."""

    def __init__(self, n: int) -> None:
        self.n_left = n
        sys.settrace(self)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        outer: FrameType | None = frame
        while outer is not None and outer.f_code is not CallersThread.serve.__code__:
            outer = outer.f_back
        self.n_left -= outer is not None
        if self.n_left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt


def interrupted_twice(n: int) -> bool:
    """Whether a second interrupt came, at the n-th function after the first interrupt."""
    caller, is_closed = CallersThread(), threading.Event()
    second: list[InterruptedAgain] = []

    def interrupt() -> None:
        second.append(InterruptedAgain(n))
        raise KeyboardInterrupt

    async def play() -> None:
        try:
            await caller.run(interrupt)
        finally:
            is_closed.set()

    traced = sys.gettrace()
    try:
        with pytest.raises(KeyboardInterrupt):
            caller.serve(play())
    finally:
        sys.settrace(traced)
    assert is_closed.wait(20), "the coroutine was not cancelled"
    return second[0].n_left <= 0


def test_a_second_interrupt_at_any_moment_leaves_nothing() -> None:
    n = 1
    while interrupted_twice(n):
        assert no_thread_stays()
        n += 1
    assert n > 3, "else nothing is proven"


def no_thread_stays() -> bool:
    deadline = time.monotonic() + 60
    while any(thread.name.startswith("rollout") for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_what_fails_in_either_thread_is_raised_and_ends_both() -> None:
    caller, closed = CallersThread(), threading.Event()

    def fail() -> None:
        raise MemoryError("none left")

    async def ask() -> None:
        try:
            await asyncio.gather(caller.run(fail), asyncio.sleep(3600))
        finally:
            closed.set()

    with pytest.raises(MemoryError, match="none left"):
        caller.serve(ask())
    assert closed.is_set(), "the caller waits until the coroutine has ended"

    async def break_off() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        CallersThread().serve(break_off())
    assert no_thread_stays()


def test_each_coroutine_gets_its_own_answers() -> None:
    """Also if many answers arrive before the loop delivers the first of them."""
    caller = CallersThread()
    answers: list[list[int]] = []

    async def play(first: int) -> None:
        answers.append([await caller.run(partial(pow, first + turn, 2)) for turn in range(20)])

    async def play_all() -> None:
        await asyncio.gather(*(play(1000 * number) for number in range(50)))

    caller.serve(play_all())
    assert sorted(answers) == [[(1000 * number + turn) ** 2 for turn in range(20)] for number in range(50)]
