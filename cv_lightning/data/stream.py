"""Endless training batches by index: prepared in worker processes, exact after a resume, without unusable rows."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from cv_lightning.errors import ConfigError, CVLightningError, DataError, RowError, TrainingError, first_line

Item = TypeVar("Item")

#: An index without an item is replaced by an index this far ahead, which no run reaches by counting.
_STRIDE = 2**40
_MIN_ATTEMPTS = 100

#: Number of batches that a worker prepares in advance.
_AHEAD = 2


@dataclass(frozen=True)
class _Made(Generic[Item]):
    """A batch from a worker.

    Attributes:
        items: Its items.
        left_out: Messages about rows that were left out: file, row, fault, remedy.
        error: An error to raise in place of the batch.
    """

    items: list[Item]
    left_out: list[str]
    error: CVLightningError | None = None


class BatchStream(Generic[Item]):
    """Endless batches of consecutive indices with a position (Lightning stores and restores its state).

    The position counts the indices of all processes and advances by the same amount on each. The state names the rows
    that any process left out. So the state in a checkpoint (from process 0) serves any number of processes. Each item
    is a function of its index, so workers may prepare batches in any order; the position counts only batches that were
    returned.

    A row that cannot be used (`RowError`) is left out: the next row of the same process takes its place, and is still
    used at its own place.

    Args:
        make: Index -> item, or None if the index has no item.
        batch_size: Items per batch and process.
        first_index: First index of the stream.
        rank: This process takes every `world_size`-th index, starting at `rank`.
        world_size: Number of processes.
        n_workers: Processes that prepare batches in advance; 0 prepares each batch on request.
        n_rows: Maximum number of rows to try for one item; values below 100 count as 100.

    Raises:
        DataError: None of the rows that were tried for an item can be used.
        TrainingError: A worker process ended, for example because memory ran out.
    """

    def __init__(
        self,
        make: Callable[[int], Item | None],
        batch_size: int,
        first_index: int = 0,
        rank: int = 0,
        world_size: int = 1,
        n_workers: int = 0,
        n_rows: int = 0,
    ) -> None:
        self._make = make
        self._batch_size = batch_size
        self._next = first_index
        self._rank = rank
        self._world_size = world_size
        self._n_workers = n_workers
        self._n_attempts = max(_MIN_ATTEMPTS, n_rows)
        self._bad: dict[int, str] = {}
        self._counted_elsewhere: frozenset[str] = frozenset()
        #: Messages about the rows that this process has left out so far.
        self.left_out: dict[str, None] = {}

    def __len__(self) -> int:
        """More batches than any run needs: with a length, Lightning does not prefetch, so its stored state is exact."""
        return 10**9

    def __iter__(self) -> Iterator[list[Item]]:
        step = self._batch_size * self._world_size
        for made in self._batches(itertools.count(self._next, step)):
            self._next += step
            for message in made.left_out:
                if message not in self.left_out and message not in self._counted_elsewhere:
                    self.left_out[message] = None
                    warnings.warn(f"Left out a row. {message}", UserWarning, stacklevel=2)
            if made.error is not None:
                raise made.error
            yield made.items

    def _batches(self, starts: Iterator[int]) -> Iterator[_Made[Item]]:
        if not self._n_workers:
            yield from map(self._batch, starts)
            return
        loader = DataLoader(
            _ByStart(self._batch),
            batch_size=None,
            sampler=starts,  # any iterable
            num_workers=self._n_workers,
            prefetch_factor=_AHEAD,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # the global generator belongs to the training
            multiprocessing_context=multiprocessing.get_context("fork"),  # only batches have to be pickled
        )
        batches = iter(loader)
        while True:
            try:
                yield next(batches)
            except RuntimeError as error:
                raise TrainingError(
                    f"A data worker died ({first_line(error)}). If memory ran out, lower "
                    "data.n_workers; 0 prepares batches in the training process."
                ) from error

    def _batch(self, next_index: int) -> _Made[Item]:
        """The batch of this process at a position."""
        left_out: list[str] = []
        start = next_index + self._rank
        try:
            items = [self._item(start + offset * self._world_size, left_out) for offset in range(self._batch_size)]
        except CVLightningError as error:
            return _Made([], left_out, error)
        return _Made(items, left_out)

    def _item(self, index: int, left_out: list[str]) -> Item:
        place = index
        for _ in range(self._n_attempts):
            if place not in self._bad:
                try:
                    item = self._make(place)
                except RowError as error:
                    self._bad[place] = str(error)
                    left_out.append(str(error))
                else:
                    if item is not None:
                        return item
                    place += _STRIDE
                    continue
            place += self._world_size
        fault = self._bad.get(index)
        if fault is not None:
            raise DataError(f"None of {self._n_attempts} consecutive rows can be used. The first fault: {fault}")
        raise DataError(
            f"Index {index} and {self._n_attempts - 1} others in its place gave no usable item. Check the source: are "
            "the recorded transforms of its rows true, and are there rows that need no crop?"
        )

    def state_dict(self) -> dict[str, Any]:
        """The next index, and the messages of each process about left-out rows; all processes must call it together."""
        return {"next": self._next, "left_out_by_process": _of_all_processes([*self.left_out])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a stored index; if the number of processes changed, process 0 counts all left-out rows."""
        self._next = state_dict["next"]
        parts: list[list[str]] = state_dict.get("left_out_by_process", [])
        before = dict.fromkeys(itertools.chain.from_iterable(parts))
        if len(parts) == self._world_size:
            self.left_out = dict.fromkeys(parts[self._rank])
        elif self._rank == 0:
            self.left_out = before
        else:
            self._counted_elsewhere = frozenset(before)


def _of_all_processes(messages: list[str]) -> list[list[str]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [messages]
    parts: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, messages)
    return parts


def check_workers(n_workers: int) -> None:
    """Raise `ConfigError` for a number of workers that cannot be started."""
    if n_workers < 0:
        raise ConfigError(f"n_workers: expected 0 or more, got {n_workers}")
    if n_workers and "fork" not in multiprocessing.get_all_start_methods():
        raise ConfigError(f"n_workers: expected 0 on a system without fork, got {n_workers}")


class _ByStart(Dataset[Any]):
    """Batches by their positions, for a `DataLoader`."""

    def __init__(self, batch: Callable[[int], Any]) -> None:
        self._batch = batch

    def __getitem__(self, start: int) -> Any:
        return self._batch(start)


def _as_it_is(made: Any) -> Any:
    return made


def _begin_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # otherwise each tokenizer warns that it was forked
