"""The finished items of a build, one line per index, so that an interrupted build continues without repeated work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from cv_lightning.construction.collect import cannot_write
from cv_lightning.errors import ConfigError


@dataclass(frozen=True)
class Item:
    """The result of one index.

    Attributes:
        index: Its place in the build.
        kind: Its kind, see `plan.KINDS`.
        record: The row; None if no attempt was kept.
        rejected: The reason for each rejected attempt, in order.
        seconds: Time of all attempts.
    """

    index: int
    kind: str
    record: dict[str, Any] | None
    rejected: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Journal:
    """An append-only file; the last line of an index counts. Only one process at a time can open it.

    Args:
        folder: The folder of the build.
        settings: The settings that determine the rows, in plain values.

    Raises:
        ConfigError: The folder holds another build, or another process is building there.
        DataError: The disk is full.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / "build.journal"
        self._places: dict[int, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(
                f"{folder}: another process is building there. Wait for it to end, or set another out."
            ) from error
        self._read(folder, settings)

    def _read(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break  # the process was killed while it wrote this line: its index is built again
            if number == 0:
                _check_settings(folder, _parse(line), settings)
            elif (index := _index_of(_parse(line))) is not None:
                self._places[index] = end
            else:
                warnings.warn(
                    f"{self.path}, line {number + 1}: damaged; its index is built again.", UserWarning, stacklevel=3
                )
            end += len(line)
        self._file.truncate(end)
        if end == 0:
            self._write(settings)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when the line was written
            self._file.close()

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, item: Item) -> None:
        """Add an item; raises `DataError` if the disk is full."""
        place = self._write(asdict(item))
        self._places[item.index] = place

    def forget(self, index: int) -> None:
        """Drop the item of an index, so that it is built again."""
        self._places.pop(index, None)

    def items(self, n: int) -> Iterator[Item]:
        """The items with an index below `n`, in order, one in memory at a time."""
        with self.path.open("rb") as file:
            for index in sorted(self._places):
                if index < n:
                    file.seek(self._places[index])
                    yield Item(**json.loads(file.readline()))

    def _write(self, content: Mapping[str, Any]) -> int:
        """Append a line and return its offset."""
        try:
            place = self._file.seek(0, 2)
            self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return place


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _index_of(content: Any) -> int | None:
    """The index in a line; None if the line does not hold an item."""
    is_item = isinstance(content, dict) and set(content) == {each.name for each in fields(Item)}
    return content["index"] if is_item and isinstance(content["index"], int) else None


def _check_settings(folder: Path, found: Any, settings: Mapping[str, Any]) -> None:
    expected = json.loads(json.dumps(settings))
    if found == expected:
        return
    if not isinstance(found, dict):
        raise ConfigError(
            f"{folder / 'build.journal'}: the first line is damaged, so the settings of the build are unknown. "
            "Set another out, or delete the folder."
        )
    differing = list(_differing(found, expected))
    raise ConfigError(
        f"{folder}: holds a build with other settings ({', '.join(differing)} differ). Set another out, delete the "
        "folder, or restore the settings. Only n, workers, give_up_after and the connection to a server may change."
    )


def _differing(found: Any, expected: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of the values that differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            yield from _differing(found.get(name), expected.get(name), f"{key}.{name}" if key else name)
    elif found != expected:
        yield key
