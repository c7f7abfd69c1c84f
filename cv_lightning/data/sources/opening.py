"""Opens a file, a folder, a pattern or a hub name, and detects the format of its records."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.data.sources import (
    chartqapro,
    codevision,
    codevision_sft,
    hrbench,
    ocrbench,
    plain,
    rotbench,
    tirbench,
    vstar,
    vtcbench,
)
from cv_lightning.data.sources.formats import Format
from cv_lightning.data.sources.parquet import ParquetRecords
from cv_lightning.data.sources.records import (
    JoinedRecords,
    JsonArrayRecords,
    JsonLinesRecords,
    Record,
    Records,
    TableRecords,
)
from cv_lightning.errors import ConfigError, DataError, first_line

#: Known formats by name. The first match is the format of a file, so more specific formats come first.
FORMATS: dict[str, Format] = {
    one.FORMAT.name: one.FORMAT
    for one in (codevision, codevision_sft, chartqapro, vstar, tirbench, vtcbench, hrbench, ocrbench, plain, rotbench)
}

_TEXT_READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": JsonLinesRecords,
    ".json": JsonArrayRecords,
    ".tsv": TableRecords,
}
_SUFFIXES = (".parquet", *_TEXT_READERS)

#: owner/name, or owner/name:split, or owner/name:config:split.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+){0,2}")


def open_records(name: str) -> Records:
    """The records of a file, a folder, a pattern of files, or a data set of the hub.

    Args:
        name: A path (`rows.jsonl`, `data/`, `data/test-*.parquet`) or a hub name (`owner/name:split`, or
            `owner/name:config:split`).

    Raises:
        ConfigError: Nothing has this name, or `datasets` is needed but not installed.
        DataError: A file cannot be read.
    """
    path = Path(name).expanduser()
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _files_in(path)
    elif any(character in name for character in "*?["):
        root, pattern = _split_pattern(path)
        files = sorted(file for file in root.glob(pattern) if file.is_file())
    elif _HUB_NAME.fullmatch(name) and path.suffix not in _SUFFIXES:
        return HubRecords(name)
    else:
        raise ConfigError(f"There is no file or folder {path}. Correct the path, or give a hub name, owner/name:split.")
    if not files:
        raise ConfigError(f"{name}: no {', '.join(_SUFFIXES)} file there. Name the file, the folder or a pattern.")
    return _open_files(files)


def _files_in(folder: Path) -> list[Path]:
    """The data files of a folder: all files of one kind, Parquet if there are any, else text."""
    for suffix in _SUFFIXES:
        files = sorted(folder.rglob(f"*{suffix}"))
        if suffix == ".json":  # JSON files in subfolders may describe one image each
            files = [file for file in files if file.parent == folder]
        if files:
            return files
    return []


def _split_pattern(path: Path) -> tuple[Path, str]:
    plain_parts = 0
    while not any(character in path.parts[plain_parts] for character in "*?["):
        plain_parts += 1
    return Path(*path.parts[:plain_parts]), str(Path(*path.parts[plain_parts:]))


def _open_files(files: Sequence[Path]) -> Records:
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) > 1 or not suffixes <= set(_SUFFIXES):
        raise ConfigError(
            f"{files[0].parent}: expected files of one kind ({', '.join(_SUFFIXES)}), "
            f"got {', '.join(sorted(suffix or 'a file without a suffix' for suffix in suffixes))}."
        )
    suffix = suffixes.pop()
    if suffix == ".parquet":
        return ParquetRecords(files)
    parts = [_TEXT_READERS[suffix](file) for file in files]
    return parts[0] if len(parts) == 1 else JoinedRecords(parts)


def find_format(records: Records, name: str, wanted: str | None = None) -> Format:
    """The format of records.

    Args:
        records: The records.
        name: Name of the records in messages.
        wanted: A name of `FORMATS` to use without a check; None detects the format from the columns.

    Raises:
        ConfigError: `wanted` is not a format.
        DataError: No format fits; the message lists the present and the missing columns.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise ConfigError(f"There is no format {wanted!r}. {did_you_mean(wanted, FORMATS)}")
        return FORMATS[wanted]
    found = records.columns()
    for one in FORMATS.values():
        if one.fits(found):
            return one
    if not found:
        raise DataError(f"{name}: none of its {len(records)} rows can be read as an object. Is it the right file?")
    nearest, missing = min(
        ((one, needed - set(found)) for one in FORMATS.values() for needed in one.columns),
        key=lambda pair: len(pair[1]),
    )
    raise DataError(
        f"{name}: no known format has the columns {', '.join(found)}. The nearest is {nearest.name!r} "
        f"({nearest.title}), which would also need {', '.join(sorted(missing))}. Known formats: {', '.join(FORMATS)}."
    )


class HubRecords(Records):
    """A data set of the hub: `datasets` downloads it once and reads it from disk row by row, without decoding images.

    Args:
        name: `owner/name`, `owner/name:split` or `owner/name:config:split`; the split is "test" if none is given.

    Raises:
        ConfigError: `datasets` is not installed, or the data set cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        repository, *rest = name.split(":")
        split = rest[-1] if rest else "test"
        self._name, self.folder = name, Path()
        try:
            # Imported only here: `datasets` is needed only to read from the hub.
            datasets: Any = importlib.import_module("datasets")
        except ImportError as error:
            raise ConfigError(
                f"{name}: reading from the hub needs the package datasets: pip install 'cv-lightning[hub]'. Or "
                f"download the files (hf download {repository} --repo-type dataset --local-dir DIR) and name DIR."
            ) from error
        try:
            rows = datasets.load_dataset(repository, rest[0] if len(rest) > 1 else None, split=split)
        except Exception as error:  # the hub client passes on any error of its transport
            raise ConfigError(f"{name}: cannot be loaded from the hub: {first_line(error)}") from error
        # Stored values: otherwise `datasets` decodes the images and raises its own error for a broken one.
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Record:
        """The row at `index`."""
        record: Record = self._rows[index].to_pylist()[0]
        return record

    def where(self, index: int) -> str:
        """Data set and row, for messages."""
        return f"{self._name}, row {index}"

    def columns(self) -> tuple[str, ...]:
        """The columns of the data set."""
        return tuple(self._rows.column_names)
