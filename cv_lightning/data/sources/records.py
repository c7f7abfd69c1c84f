"""Random access to the records of files that are larger than memory.

A record is a mapping of columns to values. Adapters interpret it (`formats.py`).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cv_lightning.errors import DataError

Record = Mapping[str, Any]

#: Number of characters of a JSON file to read at a time.
_CHUNK = 1 << 20

#: Text between two values of an array.
_BETWEEN = re.compile(r"[ \t\r\n,]*")

#: Maximum length of an image cell that is the index of another row: images are longer.
_LONGEST_REFERENCE = 64

#: Cells can hold images as text; Python's default limit is 128 KiB.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class Records(ABC):
    """The records of a source, in order.

    Attributes:
        folder: Relative image paths start here.
    """

    folder: Path

    @abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    @abstractmethod
    def read(self, index: int) -> Record:
        """The record at `index`; raises `DataError` if it cannot be read."""

    @abstractmethod
    def where(self, index: int) -> str:
        """File and place of a record, for messages."""

    def columns(self) -> tuple[str, ...]:
        """The columns of the first readable records; empty if there are none."""
        found: dict[str, None] = {}
        for index in range(min(len(self), 20)):
            try:
                found |= dict.fromkeys(map(str, self.read(index)))
            except DataError:
                continue
        return tuple(found)

    def windows(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """All indices, in groups that are cheap to read in any order; the order of the groups is random."""
        yield np.arange(len(self))


class TextRecords(Records):
    """The records of a text file; only their positions are held in memory.

    Args:
        path: The file.
    """

    unit = "row"
    form = "a JSON object in UTF-8"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self._spans: Sequence[tuple[int, int, int]] = list(self._find())

    @abstractmethod
    def _find(self) -> Iterator[tuple[int, int, int]]:
        """Start in bytes, length in bytes and number (for messages) of each record."""

    def _parse(self, text: str) -> Any:
        """A record from its text; raises ValueError if the text is not a record."""
        return json.loads(text)

    def __len__(self) -> int:
        return len(self._spans)

    def where(self, index: int) -> str:
        """File and place of a record, for messages."""
        return f"{self.path}, {self.unit} {self._spans[index][2]}"

    def read(self, index: int) -> Record:
        """The record at `index`; raises `DataError` if it is not an object."""
        start, length, _ = self._spans[index]
        try:
            record = self._parse(lines_text(self.path, start, length))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(index)}: not {self.form} ({error}).") from error
        if not isinstance(record, Mapping):
            raise DataError(f"{self.where(index)}: expected an object, got {type(record).__name__}.")
        return record


class JsonLinesRecords(TextRecords):
    """One JSON object per line; blank lines do not count."""

    unit = "line"

    def _find(self) -> Iterator[tuple[int, int, int]]:
        start = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield start, len(line), number
                start += len(line)


class JsonArrayRecords(TextRecords):
    """One JSON array of objects; the file is scanned once, in pieces."""

    def _find(self) -> Iterator[tuple[int, int, int]]:
        decoder = json.JSONDecoder()
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from self._values(decoder, file)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: the file is not UTF-8 ({error}).") from error

    def _values(self, decoder: json.JSONDecoder, file: TextIO) -> Iterator[tuple[int, int, int]]:
        text, at, number = file.read(_CHUNK), 0, 0
        start = len(b"\xef\xbb\xbf") if self._has_mark() else 0
        opening = _BETWEEN.match(text)
        if opening is None or text[opening.end() : opening.end() + 1] != "[":
            raise DataError(f"{self.path}: expected a JSON array of objects. Is it JSONL? Name it .jsonl.")
        start, at = start + opening.end() + 1, opening.end() + 1
        while True:
            gap = _BETWEEN.match(text, at)
            if gap is not None:
                start, at = start + gap.end() - at, gap.end()
            if text.startswith("]", at):
                return
            end = _end_of_value(decoder, text, at)
            if end is None:
                more = file.read(max(_CHUNK, len(text) - at))  # doubling: a long record is not scanned many times
                if not more:
                    raise DataError(f"{self.path}: the JSON is truncated or wrong from row {number} on.")
                text, at = text[at:] + more, 0
                continue
            length = len(text[at:end].encode())
            yield start, length, number
            start, at, number = start + length, end, number + 1

    def _has_mark(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(3) == b"\xef\xbb\xbf"


def _end_of_value(decoder: json.JSONDecoder, text: str, at: int) -> int | None:
    """The end of the JSON value at `at`; None if it is incomplete."""
    try:
        end = decoder.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return None
    # A number at the end of a piece may continue in the next piece.
    return end if end < len(text) or text[at] in '{["' else None


class TableRecords(TextRecords):
    """Tab-separated values with a header, the format of benchmark toolkits.

    An image cell may hold the `index` of the row that has the image (VLMEvalKit).
    """

    form = "a table row in UTF-8"

    def _find(self) -> Iterator[tuple[int, int, int]]:
        self._header: list[str] = []
        start, length, quotes, number = 0, 0, 0, -1
        with self.path.open("rb") as lines:
            for line in lines:
                length += len(line)
                quotes += line.count(b'"')
                if quotes % 2:  # the line break is inside a quoted cell
                    continue
                if number < 0:
                    self._header = self._cells(lines_text(self.path, start, length))
                elif line.strip():
                    yield start, length, number
                start, length, quotes, number = start + length, 0, 0, number + 1

    def columns(self) -> tuple[str, ...]:
        """The cells of the header."""
        return tuple(self._header)

    def _cells(self, text: str) -> list[str]:
        if '"' not in text:  # the csv module reads by character: slow for an image of many megabytes
            return text.rstrip("\r\n").split("\t")
        return next(iter(csv.reader([text.rstrip("\r\n")], delimiter="\t")), [])

    def _parse(self, text: str) -> Any:
        cells = self._cells(text)
        if len(cells) != len(self._header):
            raise ValueError(f"expected {len(self._header)} cells as in the header, got {len(cells)}")
        record = dict(zip(self._header, cells, strict=True))
        image = record.get("image", "")
        if "index" in record and 0 < len(image) <= _LONGEST_REFERENCE and image in self._place_of_index:
            record["image"] = self._image_at(self._place_of_index[image])
        return record

    @cached_property
    def _place_of_index(self) -> dict[str, int]:
        """Index -> place of its row; if a cell may be a reference, the file is scanned once."""
        column = self._header.index("index")
        rows = (self._cells(lines_text(self.path, start, length)) for start, length, _ in self._spans)
        return {cells[column]: place for place, cells in enumerate(rows) if len(cells) == len(self._header)}

    def _image_at(self, place: int) -> str:
        start, length, _ = self._spans[place]
        return self._cells(lines_text(self.path, start, length))[self._header.index("image")]


def lines_text(path: Path, start: int, length: int) -> str:
    """A piece of a UTF-8 file."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length).decode("utf-8-sig")


class JoinedRecords(Records):
    """The records of several files, one file after the other."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self.folder = parts[0].folder

    def _part(self, index: int) -> tuple[Records, int]:
        number = bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> Record:
        """The record at `index`; raises `DataError` if it cannot be read."""
        part, place = self._part(index)
        return part.read(place)

    def where(self, index: int) -> str:
        """File and place of a record, for messages."""
        part, place = self._part(index)
        return part.where(place)
