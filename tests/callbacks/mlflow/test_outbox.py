"""Records come out of the outbox once and in order, also after a crash."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.mlflow import outbox as module
from callbacks.mlflow.outbox import Outbox


def crash(outbox: Outbox) -> None:
    """Close the file and release its lock, as the operating system does for a killed process."""
    assert outbox._file is not None
    os.close(outbox._file)


def take(outbox: Outbox, limit: int = 100) -> list[Any]:
    records, ends = outbox.first(limit)
    if ends:
        outbox.confirm(ends[-1])
    return [record.get("n") for record in records]


@given(st.lists(st.one_of(st.none(), st.integers(1, 4)), max_size=60))
def test_records_come_out_once_and_in_order(actions: list[int | None]) -> None:
    """None puts a record; a number takes that many records."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COMPACT_AT", 40)
        outbox = Outbox(Path(folder), "x")
        put = 0
        taken: list[Any] = []
        for action in actions:
            if action is None:
                outbox.put({"n": put})
                put += 1
            else:
                taken += take(outbox, action)
                assert outbox.is_empty == (len(taken) == put)
        taken += take(outbox)
        assert taken == list(range(put))
        outbox.remove_sent()
        assert not list(Path(folder).iterdir())


def test_what_a_killed_process_left_comes_first(tmp_path: Path) -> None:
    killed = Outbox(tmp_path, "x")
    killed.put({"n": 0})
    killed.put({"n": 1})
    crash(killed)
    with killed.path.open("a") as file:
        file.write('{"n": 2, "cut o')
    outbox = Outbox(tmp_path, "x")
    outbox.put({"n": 3})
    assert take(outbox) == [0, 1, None, 3]


def test_lasting_records_are_there_whatever_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 10)
    outbox = Outbox(tmp_path, "x")
    outbox.put({"n": 0}, is_lasting=True)
    outbox.put({"n": 1})
    assert take(outbox) == [0, 1]
    assert outbox.is_empty, "lasting records are not sent again"
    outbox.put({"n": 2})
    assert [record["n"] for record in outbox.all()] == [0, 2]
    assert take(outbox) == [2]
    outbox.remove_sent()
    outbox.put({"n": 3})
    crash(outbox)
    assert take(Outbox(tmp_path, "x")) == [0, 3]


def test_a_second_process_takes_another_file(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path, "x"), Outbox(tmp_path, "x")
    first.put({"n": 1})
    second.put({"n": 2})
    assert (first.path.name, second.path.name) == ("x.jsonl", "x.1.jsonl")
    assert (take(first), take(second)) == ([1], [2])


def test_records_that_cannot_be_read_back_are_given_up(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "x")
    outbox.put({"n": 1})
    os.truncate(outbox.path, 0)
    assert outbox.first(10) == ([], [])
    outbox.give_up()
    assert outbox.is_empty
