"""Streams of batches: divided among processes, exact after a resume with workers ahead, without unusable rows."""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.data.stream import BatchStream, check_workers
from cv_lightning.errors import ConfigError, DataError, RowError, TrainingError


@given(
    batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    first_index=st.integers(0, 10**6),
    empty=st.sets(st.integers(0, 60)),
)
def test_processes_share_the_indices_out_and_go_on_from_one_state(
    batch_size: int, world_size: int, first_index: int, empty: set[int]
) -> None:
    def make(index: int) -> int | None:
        return None if index - first_index in empty else index

    def streams() -> list[BatchStream[int]]:
        return [BatchStream(make, batch_size, first_index, rank, world_size) for rank in range(world_size)]

    whole = [[next(iterator) for iterator in map(iter, streams())]]
    running = streams()
    iterators = [iter(stream) for stream in running]
    before = [[next(iterator) for iterator in iterators] for _ in range(3)]
    assert before[0] == whole[0]
    seen = [index for step in before for batch in step for index in batch]
    assert len(set(seen)) == len(seen) == 3 * world_size * batch_size, "no index twice"
    plain = {index for index in seen if index < first_index + 10**6}
    expected = {first_index + offset for offset in range(len(seen)) if offset not in empty}
    assert plain == expected, "every index that gives something is used"

    state = running[0].state_dict()  # Lightning stores the state of process 0 only
    after = [next(iterator) for iterator in iterators]
    resumed = streams()
    for stream in resumed:
        stream.load_state_dict(state)
    assert [next(iter(stream)) for stream in resumed] == after


def test_a_source_that_gives_nothing_is_named_and_does_not_hang() -> None:
    stream: BatchStream[int] = BatchStream(lambda index: None, 2, 40)
    with pytest.raises(DataError, match=r"Index 40 .*Check the source"):
        next(iter(stream))


def without(*bad: int) -> Callable[[int], int]:
    """A function that returns the row of an index, and raises `RowError` for the bad indices."""

    def make(index: int) -> int:
        if index in bad:
            raise RowError(f"row {index}: its prompt is too long")
        return index

    return make


def take(stream: BatchStream[Any], n: int) -> list[list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(itertools.islice(stream, n))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_the_next_row_of_the_rank_takes_the_place_of_a_bad_one(n_workers: int) -> None:
    streams = [BatchStream(without(2, 4, 7), 2, 0, rank, 2, n_workers) for rank in range(2)]
    assert take(streams[0], 3) == [[0, 6], [6, 6], [8, 10]], "2 and 4 are bad: 6, the next of this rank, in their place"
    assert take(streams[1], 3) == [[1, 3], [5, 9], [9, 11]]
    assert [[*stream.left_out] for stream in streams] == [
        ["row 2: its prompt is too long", "row 4: its prompt is too long"],
        ["row 7: its prompt is too long"],
    ]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_each_row_that_is_left_out_is_named_once(n_workers: int) -> None:
    stream = BatchStream(lambda index: without(1)(index % 4), 2, n_workers=n_workers)
    with pytest.warns(UserWarning, match="Left out") as caught:
        found = list(itertools.islice(stream, 6))
    assert found == [[0, 2], [2, 3]] * 3
    # There are other warnings: the loader's about CPU cores, and Python 3.12's about a fork beside threads.
    ours = [str(one.message) for one in caught if "Left out" in str(one.message)]
    assert ours == ["Left out a row. row 1: its prompt is too long"]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_resume_is_exact_though_workers_are_ahead(n_workers: int) -> None:
    def stream() -> BatchStream[int]:
        return BatchStream(without(3, 9), 2, 0, 0, 1, n_workers)

    whole = take(stream(), 8)
    first = stream()
    batches = take(first, 3)
    resumed = stream()
    resumed.load_state_dict(first.state_dict())
    assert batches + take(resumed, 5) == whole
    assert [*resumed.left_out] == [f"row {row}: its prompt is too long" for row in (3, 9)], "counted on"


def test_each_process_counts_on_and_no_row_counts_twice_on_another_number_of_them() -> None:
    state = {"next": 4, "left_out_by_process": [["row 2", "row 4"], ["row 7"]]}

    def resumed(world_size: int) -> list[list[str]]:
        streams = [BatchStream(without(), 2, 0, rank, world_size) for rank in range(world_size)]
        for stream in streams:
            stream.load_state_dict(state)
        return [[*stream.left_out] for stream in streams]

    assert resumed(2) == [["row 2", "row 4"], ["row 7"]]
    assert resumed(1) == [["row 2", "row 4", "row 7"]]
    assert resumed(3) == [["row 2", "row 4", "row 7"], [], []]
    second = BatchStream(without(8), 2, 0, 1, 3)
    second.load_state_dict({"next": 6, "left_out_by_process": [["row 8: its prompt is too long"], []]})
    take(second, 2)
    assert not second.left_out, "the first process counts it"


def test_a_state_from_before_rows_were_counted_is_read() -> None:
    stream = BatchStream(without(), 2)
    stream.load_state_dict({"next": 6})
    assert take(stream, 1) == [[6, 7]]


def test_many_bad_rows_in_a_row_end_no_run_while_a_good_one_is_left() -> None:
    made: list[int] = []

    def make(index: int) -> int:
        made.append(index)
        return without(*range(1, 500))(index)

    stream = BatchStream(make, 4, n_rows=1000)
    assert take(stream, 100) == [[0, 500, 500, 500], *[[500] * 4] * 99]
    assert len(stream.left_out) == 499
    assert len(made) < 500 + 400, "a bad row is looked at once"


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_source_without_a_good_row_is_an_error_that_names_one(n_workers: int) -> None:
    def make(index: int) -> int:
        raise RowError(f"row {index}: no answer")

    with pytest.raises(
        DataError, match=r"None of 120 consecutive rows can be used\. The first fault: row 40: no answer"
    ):
        take(BatchStream(make, 2, 40, n_workers=n_workers, n_rows=120), 1)


def test_an_error_of_the_config_reaches_the_user_as_it_is() -> None:
    def make(index: int) -> int:
        raise ConfigError("toolbox: another one")

    with pytest.raises(ConfigError, match=r"^toolbox: another one$"):
        take(BatchStream(make, 2, n_workers=1), 1)


def test_a_worker_that_is_killed_ends_the_run_with_a_remedy() -> None:
    def make(index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index

    with pytest.raises(TrainingError, match=r"A data worker died .*lower data\.n_workers"):
        take(BatchStream(make, 2, n_workers=1), 1)


def test_workers_leave_the_random_numbers_of_the_training_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    take(BatchStream(without(), 2, n_workers=1), 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_number_of_workers_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="n_workers: expected 0 or more, got -1"):
        check_workers(-1)
