"""Recorded questions from files or the hub, in any known format: a training or evaluation source for configs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cv_lightning.data.orientation import restore_sample, transform_sample
from cv_lightning.data.rows import Row, load_sample, read_row
from cv_lightning.data.source import SampleSource, Split, check_seed, check_weights, choose_transforms, generator
from cv_lightning.data.sources.formats import Format
from cv_lightning.data.sources.opening import find_format, open_records
from cv_lightning.data.sources.records import Records
from cv_lightning.errors import ConfigError, DataError, RowError
from cv_lightning.types import Sample

T = TypeVar("T")


class FileSource(SampleSource):
    """Samples from recorded rows; each row is read on request, and no data set is held in memory.

    Training goes through all rows in passes, in a new random order for each pass (rows of a Parquet row group stay near
    each other). Validation and test go through their files in order. A requested transform replaces the recorded one:
    the image is turned upright, then transformed, both exactly.

    Args:
        train: Training split: a file, a folder, a pattern, or a hub name (see `open_records`).
        validation: Validation split.
        test: Test split.
        format: A name of `opening.FORMATS`; None detects it from the columns.
        folder: Relative image paths start here; None for the folder of the file that names them.
        weights: Frequency of each orientation, as in `PlateWorld`; None leaves images as recorded.
        seed: Seed of the order and of the orientations.
        strict: Raise at the first bad row. Otherwise each bad row is left out with one warning, and the next good row
            takes its place.

    Raises:
        ConfigError: No split is given, a file does not exist, or two splits are the same.
        DataError: A file has an unknown format or cannot be read.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        format: str | None = None,
        folder: str | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        given: dict[Split, str | None] = {"train": train, "validation": validation, "test": test}
        names = {split: name for split, name in given.items() if name is not None}
        _check_names(names)
        if weights is not None:
            check_weights("FileSource.weights", weights)
        check_seed("FileSource.seed", seed)
        self._weights = weights
        self._seed = seed
        self._strict = strict
        self._skipped: set[str] = set()
        self._rows = {split: Rows(name, format, folder, f"FileSource.{split}") for split, name in names.items()}
        if weights is not None:
            self._check_is_free()

    def size(self, split: Split) -> int:
        """Number of rows of a split, including bad rows; 0 if the split was not given."""
        return len(self._rows[split]) if split in self._rows else 0

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; the index continues from pass to pass.

        Raises:
            ConfigError: The split was not given, or `transforms` is given but the answers depend on the recorded ones.
            DataError: The row is bad and `strict` is set, or every row is bad.
        """
        return self._oriented(self._first_good(split, index), split, index, transforms)

    def exactly(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample of the row at `index`, never a substitute; raises the errors of `only`."""
        return self._oriented(self.only(split, index, Rows.sample), split, index, transforms)

    def _oriented(self, sample: Sample, split: Split, index: int, transforms: Sequence[str] | None) -> Sample:
        if transforms is not None:
            self._check_is_free()
        if transforms is None and self._weights is not None:
            transforms = choose_transforms(generator(self._seed, split, index), self._weights)
        return sample if transforms is None else transform_sample(restore_sample(sample), transforms)

    def _check_is_free(self) -> None:
        """Raise `ConfigError` if answers depend on the recorded orientation."""
        for rows in self._rows.values():
            if rows.format.expand is not None:
                raise ConfigError(
                    f"{rows.name}: {rows.format.title} asks how each image was turned, so its images cannot be turned "
                    "again. Set data.orientations to [recorded], and leave out weights and corruptions."
                )

    def _places(self, rows: Rows, split: Split, index: int) -> Iterator[int]:
        """The place of row `index`, then the places of rows that replace it if it is bad."""
        n_rows = len(rows)
        turn, start = divmod(index, n_rows)
        order = _order(rows.records, self._seed, turn) if split == "train" else range(n_rows)
        return (int(order[(start + offset) % n_rows]) for offset in range(n_rows))

    def _first_good(self, split: Split, index: int) -> Sample:
        """The sample of the row at `index`, or of the first good row after it."""
        rows = self._rows_of(split)
        for place in self._places(rows, split, index):
            sample = self._or_skip(rows, place)
            if sample is not None:
                return sample
        raise DataError(
            f"{rows.name}: none of its {len(rows)} rows can be used. Look at the first warning, or run "
            f"`python -m cv_lightning data check {rows.name}`."
        )

    def only(self, split: Split, index: int, read: Callable[[Rows, int], T]) -> T:
        """The result of `read` for the row at `index`.

        Raises:
            ConfigError: The split was not given.
            RowError: The row is bad and `strict` is not set.
            DataError: The row is bad and `strict` is set.
        """
        rows = self._rows_of(split)
        try:
            return read(rows, next(self._places(rows, split, index)))
        except DataError as error:
            if self._strict:
                raise
            raise RowError(str(error)) from error

    def _rows_of(self, split: Split) -> Rows:
        if split not in self._rows:
            raise ConfigError(
                f"FileSource: there is no file for the {split} split. Give `{split}: path/to/rows.jsonl`."
            )
        return self._rows[split]

    def _or_skip(self, rows: Rows, place: int) -> Sample | None:
        where = rows.records.where(place)
        if where in self._skipped:
            return None
        try:
            return rows.sample(place)
        except DataError as error:
            if self._strict:
                raise
            self._skipped.add(where)
            warnings.warn(f"Left out a row. {error}", UserWarning, stacklevel=2)
            return None


class Rows:
    """Records in a known format: the rows of one split.

    Args:
        name: See `open_records`.
        format: A name of `opening.FORMATS`, or None to detect it.
        folder: Start of relative image paths; None for the folder of the records.
        where: The config argument that holds `name`, for messages.
    """

    def __init__(self, name: str, format: str | None = None, folder: str | None = None, where: str = "") -> None:
        self.name = name
        try:
            self.records: Records = open_records(name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from error
        if not len(self.records):
            raise DataError(f"{name}: expected rows, got none.")
        self.format: Format = find_format(self.records, name, format)
        if self.format.expand is not None:
            self.records = self.format.expand(self.records)
        self.folder = self.records.folder if folder is None else Path(folder).expanduser()

    def __len__(self) -> int:
        return len(self.records)

    def fields(self, index: int) -> dict[str, object]:
        """The fields of the record at `index`, for `rows.read_row`; raises `DataError`."""
        return self.format.fields(self.records.read(index), self.records.where(index), self.folder)

    def row(self, index: int) -> Row:
        """The row at `index`, with images not yet opened; raises `DataError`."""
        return read_row(self.fields(index), self.records.where(index), self.folder)

    def sample(self, index: int) -> Sample:
        """The sample at `index`; raises `DataError`."""
        return load_sample(self.row(index))


def _check_names(names: Mapping[Split, str]) -> None:
    if not names:
        raise ConfigError("FileSource: expected a file for train, validation or test, got none.")
    if len({Path(name).expanduser().resolve() for name in names.values()}) < len(names):
        raise ConfigError(f"FileSource: two splits read the same file: {', '.join(names.values())}.")


@lru_cache(maxsize=4)
def _order(records: Records, seed: int, turn: int) -> NDArray[np.int64]:
    rng = generator(seed, "train", turn, stream=2)
    return np.concatenate([rng.permutation(window) for window in records.windows(rng)])
