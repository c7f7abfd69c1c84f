"""Records that wait to be sent, in a file that survives an unreachable server and a killed process."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

Record = dict[str, Any]

#: Bytes of sent records after which the file is emptied.
_COMPACT_AT = 2**20

#: Maximum bytes that are read at once.
_READ = 2**22


class Outbox:
    """A queue of JSON records in `<folder>/<name>.jsonl`, for one process; its threads may share it.

    The file exists while records wait. If another process holds it, `<name>.1.jsonl` is used.

    Args:
        folder: Folder of the file. Records that an earlier process left there come first.
        name: The file's name without suffix.

    Attributes:
        path: The file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._lock = threading.Lock()
        self._head: list[bytes] = []
        self._file: int | None = None
        self._sent = self._size = 0
        self._open()

    def put(self, record: Record, is_lasting: bool = False) -> None:
        """Append a record.

        Args:
            record: JSON.
            is_lasting: Whether later records need it; it is then written to each new file again.

        Raises:
            OSError: The disk is full, or the folder is gone.
        """
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._open()
                self._write_head()
            self._write(line)
            if is_lasting:
                self._head.append(line)

    def first(self, limit: int) -> tuple[list[Record], list[int]]:
        """Up to `limit` of the next records, and the position in the file at which each ends; a broken line is {}."""
        with self._lock:
            start = self._sent
            content = self._read(start, min(self._size - start, _READ))
        records, ends = [], []
        for line in content.splitlines(keepends=True)[:limit]:
            if line.endswith(b"\n"):  # else the line continues beyond the bytes that were read
                start += len(line)
                records.append(_parse(line))
                ends.append(start)
        return records, ends

    def all(self) -> list[Record]:
        """All records of the file, including those that were sent."""
        with self._lock:
            return [_parse(line) for line in self._read(0, self._size).splitlines()]

    def confirm(self, end: int) -> None:
        """Forget the records up to `end`, which have been sent."""
        with self._lock:
            self._sent = end
            if self._file is not None and self._sent == self._size and self._size > _COMPACT_AT:
                os.ftruncate(self._file, 0)
                self._size = 0
                self._write_head()

    def give_up(self) -> None:
        """Drop the waiting records, for the case that they cannot be read back."""
        with self._lock:
            self._sent = self._size

    @property
    def is_empty(self) -> bool:
        """Whether all records have been sent."""
        with self._lock:
            return self._sent == self._size

    def remove_sent(self) -> None:
        """Remove the file if all records have been sent; the next record makes a new file."""
        with self._lock:
            if self._file is not None and self._sent == self._size:
                self.path.unlink(missing_ok=True)
                os.close(self._file)
                self._file = None
                self._sent = self._size = 0

    def _open(self) -> None:
        self.path, self._file = _own_file(self._folder, self._name)
        self._sent, self._size = 0, os.fstat(self._file).st_size
        if self._size and not self._read(self._size - 1, 1).endswith(b"\n"):  # a write that was cut off
            self._write(b"\n")

    def _write_head(self) -> None:
        """Write the lasting records, which have been sent."""
        for line in self._head:
            self._write(line)
        self._sent = self._size

    def _write(self, line: bytes) -> None:
        if self._file is not None:
            self._size += os.write(self._file, line)

    def _read(self, start: int, length: int) -> bytes:
        return b"" if self._file is None else os.pread(self._file, length, start)


def _own_file(folder: Path, name: str) -> tuple[Path, int]:
    """The first file of the name that no other process holds, open and locked."""
    number = 0
    while True:
        path = folder / (f"{name}.{number}.jsonl" if number else f"{name}.jsonl")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            number += 1
            continue
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)  # its owner removed it between our opening and our locking


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
