"""Records of Parquet files, read in blocks of bounded size.

Opening reads only the footers, so even 6 GB of files open immediately. A block is a row group or, if the row group is
large, a part of it; a few blocks are cached. Parts of a row group are cheap to read only in order, because its pages
are read from the start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_lightning.data.sources.records import Record, Records
from cv_lightning.errors import DataError

#: Bytes per block and number of cached blocks: 256 MiB in all.
_BLOCK_BYTES = 32 << 20
_KEPT_BLOCKS = 8


@dataclass(frozen=True)
class _Block:
    """Rows [start, stop) of the source: part `part` of row group `group` in file `file`."""

    start: int
    stop: int
    file: int
    group: int
    part: int
    rows_per_part: int


class ParquetRecords(Records):
    """The rows of Parquet files, one file after the other.

    Args:
        paths: The files.

    Raises:
        DataError: A file is not a Parquet file or is truncated.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.folder = self.paths[0].parent
        self._first_rows: list[int] = []
        self._blocks: list[_Block] = []
        self._columns: tuple[str, ...] = ()
        n_rows = 0
        for number, path in enumerate(self.paths):
            self._first_rows.append(n_rows)
            n_rows = self._scan(number, path, n_rows)
        self._n_rows = n_rows
        self._kept: OrderedDict[int, list[Record]] = OrderedDict()
        self._open: tuple[int, Iterator[list[Record]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_open": None}  # each worker process has its own cache

    def _scan(self, number: int, path: Path, start: int) -> int:
        with _opened(path) as file:
            columns = tuple(file.schema_arrow.names)
            if self._columns and set(columns) != set(self._columns):
                raise DataError(
                    f"{path}: its columns are {', '.join(columns)}, but {self.paths[0].name} beside it has "
                    f"{', '.join(self._columns)}. Read files of one schema at a time."
                )
            self._columns = self._columns or columns
            for group in range(file.metadata.num_row_groups):
                meta = file.metadata.row_group(group)
                stop = start + meta.num_rows
                size = max(1, meta.num_rows * _BLOCK_BYTES // max(1, meta.total_byte_size))
                self._blocks += _parts_of(number, group, start, stop, size)
                start = stop
        return start

    def _split(self, block: _Block) -> None:
        """Split the row group of a block into smaller parts.

        pyarrow supports no batches of more than 2 GiB of nested bytes. The footer does not say how large a batch gets,
        because it counts each value of a dictionary only once.
        """
        if block.rows_per_part == 1:
            raise DataError(f"{self.where(block.start)}: the row is larger than 2 GiB. Remove it.")
        own = [one for one in self._blocks if (one.file, one.group) == (block.file, block.group)]
        first, size = self._blocks.index(own[0]), max(1, min(block.rows_per_part, own[-1].stop - own[0].start) // 8)
        parts = _parts_of(block.file, block.group, own[0].start, own[-1].stop, size)
        self._blocks[first : first + len(own)] = parts
        self._open = None
        self._kept.clear()
        self.__dict__.pop("_starts", None)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.array([block.start for block in self._blocks], dtype=np.int64)

    def __len__(self) -> int:
        return self._n_rows

    def columns(self) -> tuple[str, ...]:
        """The columns, from the schema."""
        return self._columns

    def where(self, index: int) -> str:
        """File and row, for messages."""
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return f"{self.paths[number]}, row {index - self._first_rows[number]}"

    def read(self, index: int) -> Record:
        """The row at `index`; raises `DataError` if the file is broken there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        if number not in self._kept:
            try:
                self._kept[number] = self._read_block(number)
            except NotImplementedError:
                self._split(self._blocks[number])
                return self.read(index)
            while len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number][index - self._blocks[number].start]

    def windows(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Row groups in random order, in windows of as many rows as the cache holds."""
        groups: dict[tuple[int, int], list[_Block]] = {}
        for block in self._blocks:
            groups.setdefault((block.file, block.group), []).append(block)
        keys = list(groups)
        blocks = [block for place in rng.permutation(len(keys)) for block in groups[keys[place]]]
        for first in range(0, len(blocks), _KEPT_BLOCKS):
            some = blocks[first : first + _KEPT_BLOCKS]
            yield np.concatenate([np.arange(block.start, block.stop) for block in some])

    def _read_block(self, number: int) -> list[Record]:
        block = self._blocks[number]
        if self._open is None or self._open[0] != number:
            self._open = (number, self._parts(block))
            for _ in range(block.part):
                next(self._open[1])
        parts = self._open[1]
        try:
            rows = next(parts)
        except (OSError, ValueError, StopIteration) as error:  # pyarrow's errors are subclasses of these
            self._open = None
            raise DataError(
                f"{self.where(block.start)}: the file is broken in the {block.stop - block.start} rows that start here "
                f"({error}). Download it again."
            ) from error
        self._open = (number + 1, parts)
        following = self._blocks[number + 1] if number + 1 < len(self._blocks) else None
        if following is None or following.part == 0:
            self._open = None
        return rows

    def _parts(self, block: _Block) -> Iterator[list[Record]]:
        """The rows of a block's row group, part by part."""
        with _opened(self.paths[block.file]) as file:
            pending: list[Record] = []
            for batch in file.iter_batches(batch_size=block.rows_per_part, row_groups=[block.group]):
                pending += batch.to_pylist()
                while len(pending) >= block.rows_per_part:
                    yield pending[: block.rows_per_part]
                    pending = pending[block.rows_per_part :]
            if pending:
                yield pending


def _parts_of(file: int, group: int, start: int, stop: int, size: int) -> list[_Block]:
    """The blocks of a row group, `size` rows each."""
    places = enumerate(range(start, stop, size))
    return [_Block(first, min(first + size, stop), file, group, part, size) for part, first in places]


def _opened(path: Path) -> Any:
    import pyarrow.parquet

    try:
        # With a buffer, pages are read as needed; otherwise whole column chunks are read in advance.
        return pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: truncated or not a Parquet file ({error}). Download it again.") from error
