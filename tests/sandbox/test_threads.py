"""Work in threads gives the same results as work in sequence."""

from __future__ import annotations

import os
import threading
import time

import pytest

from sandbox import threads
from sandbox.threads import spread


@pytest.mark.parametrize("cores", [1, 3])
def test_results_keep_their_order(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(threads, "count_cores", lambda: cores)
    monkeypatch.setattr(threads, "_pools", {})

    def call(number: int) -> tuple[int, bool]:
        time.sleep(0.002 * (5 - number))  # the first is done last
        return number**2, threading.current_thread() is threading.main_thread()

    assert spread(call, range(5)) == [(number**2, cores == 1) for number in range(5)]
    assert spread(call, [4]) == [(16, True)]
    assert spread(call, []) == []


def test_the_first_call_that_fails_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        spread(lambda number: 1 // number, [1, 0, 2])


def test_a_forked_child_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    spread(str, [1, 2])
    if (child := os.fork()) == 0:
        os._exit(0 if spread(str, [1, 2]) == ["1", "2"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
