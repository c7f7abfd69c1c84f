"""A process that we spawn and reach over a pipe."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

import pytest

from sandbox.lanes.process import Spawned


def tell(name: str, pipe: Connection) -> None:
    """Send what the process finds, then wait forever."""
    pipe.send((name, os.environ.get("OMP_NUM_THREADS"), hash("cv")))
    pipe.recv()


def first_word(process: Spawned) -> tuple[str, str | None, int]:
    assert process.pipe.poll(60)
    said: tuple[str, str | None, int] = process.pipe.recv()
    return said


def test_processes_that_must_repeat_hash_alike_and_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    said = []
    for repeats in (True, True, False):
        process = Spawned(tell, "a", repeats=repeats)
        assert os.environ["OMP_NUM_THREADS"] == "5", "ours stays as it was"
        assert "PYTHONHASHSEED" not in os.environ
        said.append(first_word(process))
        process.end()
    assert said[0] == said[1]
    assert said[0][:2] == ("a", "1")
    assert said[2][1] == "5"


def test_it_is_ended_while_it_is_busy() -> None:
    process = Spawned(tell, "b")
    first_word(process)
    assert process.is_alive()
    process.end()
    assert not process.is_alive()
    with pytest.raises(OSError, match="closed"):
        process.pipe.recv()


def test_a_process_that_cannot_start_is_the_callers_error() -> None:
    with pytest.raises(AttributeError, match="local"):
        Spawned(tell, lambda: None)
