"""Recorded questions: one JSON object a line, images beside the file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cv_lightning.data.orientation import restore_sample, transform_sample
from cv_lightning.data.rows import Row, load_sample, read_row
from cv_lightning.data.world import SampleSource, Split, check_seed, check_weights, choose_transforms, generator
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.types import Sample

T = TypeVar("T")


class JsonLines(SampleSource):
    """Samples from JSONL files with the fields of `rows.sample_from_row`.

    Training takes every row once before any row twice, in an order drawn anew for each pass; validation and test go
    through their files in order. A transform that is asked for replaces the recorded one: the image is turned upright,
    then transformed, both exactly.

    Args:
        train: File of the training split.
        validation: File of the validation split.
        test: File of the test split.
        folder: Relative image paths start here; None: beside the file that names them.
        weights: How often each orientation is chosen, as in `PlateWorld`; None leaves images as they are recorded.
        seed: Seed of the order and of the orientations.
        strict: Raise at the first bad row. Otherwise each bad row is skipped with one warning.

    Raises:
        ConfigError: No file is given, one does not exist, or two splits share one.
        DataError: A file has no good row, or, where `strict`, a bad one.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        folder: str | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        given: dict[Split, str | None] = {"train": train, "validation": validation, "test": test}
        files = {split: Path(name).expanduser() for split, name in given.items() if name is not None}
        _check_files(files)
        if weights is not None:
            check_weights("JsonLines.weights", weights)
        check_seed("JsonLines.seed", seed)
        self._weights = weights
        self._seed = seed
        self._strict = strict
        self._skipped: set[str] = set()
        self._rows = {split: self._read(path, folder) for split, path in files.items()}

    def size(self, split: Split) -> int:
        """Rows of a split that can be used, as far as their text tells; 0 without a file."""
        return len(self._rows.get(split, ()))

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`, counted on from pass to pass.

        Raises:
            ConfigError: The split has no file.
            DataError: An image is missing or broken and `strict` is set, or every row is bad.
        """
        rows = self._rows.get(split)
        if rows is None:
            raise ConfigError(f"JsonLines: there is no file for the {split} split. Give `{split}: path/to/rows.jsonl`.")
        sample = self._load(rows, self._positions(split, index))
        if transforms is None and self._weights is not None:
            transforms = choose_transforms(generator(self._seed, split, index), self._weights)
        return sample if transforms is None else transform_sample(restore_sample(sample), transforms)

    def _positions(self, split: Split, index: int) -> Iterator[int]:
        """Where the row of `index` is, then those that stand in for it, should it be bad."""
        n_rows = self.size(split)
        turn, start = divmod(index, n_rows)
        order = _order(self._seed, turn, n_rows) if split == "train" else range(n_rows)
        return (int(order[(start + offset) % n_rows]) for offset in range(n_rows))

    def _load(self, rows: Sequence[Row], positions: Iterator[int]) -> Sample:
        for position in positions:
            row = rows[position]
            sample = self._or_skip(row.where, partial(load_sample, row))
            if sample is not None:
                return sample
        raise DataError(
            f"{rows[0].where} and all rows after it have no image that can be read. Check the image folder."
        )

    def _read(self, path: Path, folder: str | None) -> list[Row]:
        images = path.parent if folder is None else Path(folder).expanduser()
        rows = []
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}, line {number}"
                if line.strip():
                    rows.append(self._or_skip(where, partial(_parse, line, where, images)))
        good = [row for row in rows if row is not None]
        if not good:
            raise DataError(f"{path}: none of its {len(rows)} rows can be used. Look at the first warning.")
        return good

    def _or_skip(self, where: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except DataError as error:
            if self._strict:
                raise
            if where not in self._skipped:
                self._skipped.add(where)
                warnings.warn(f"Skipped a row. {error}", UserWarning, stacklevel=2)
            return None


def _check_files(files: Mapping[Split, Path]) -> None:
    if not files:
        raise ConfigError("JsonLines: expected a file for at least one of train, validation and test.")
    for split, path in files.items():
        if not path.is_file():
            raise ConfigError(f"JsonLines.{split}: there is no file {path}. Correct the path.")
    if len({path.resolve() for path in files.values()}) < len(files):
        raise ConfigError(f"JsonLines: two splits read the same file: {', '.join(map(str, files.values()))}.")


def _parse(line: bytes, where: str, folder: Path) -> Row:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}). Write one object a line, in UTF-8.") from error
    return read_row(fields, where, folder)


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, n_rows: int) -> NDArray[np.int64]:
    return generator(seed, "train", turn, stream=2).permutation(n_rows)
