"""Finds and reads records of trajectories, in the format of `docs/trajectories.md`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cv_lightning.errors import DataError

FILE = "trajectories.jsonl"

Record = dict[str, Any]

_INSIDE = re.compile(r"images/[0-9A-Za-z_.-]+")


@dataclass
class FoundRecords:
    """Records, the files of their images by name, and the faults of skipped records, as text."""

    records: list[Record] = field(default_factory=list)
    images: dict[str, Path] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def find(target: Path) -> list[Path]:
    """The record files in a run's folder or a step's folder, or a single file, in order of their paths.

    Raises:
        DataError: There is no record file.
    """
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise DataError(
            f"{target}: there is no such file or folder. Name a {FILE}, a run's folder, or a run id of MLflow "
            "(32 hexadecimal digits)."
        )
    own = target / FILE
    found = [own] if own.is_file() else sorted(target.rglob(FILE))
    if not found:
        raise DataError(f"{target}: no {FILE} below it. The callback callbacks.Trajectories writes them.")
    return found


def read(files: list[Path]) -> FoundRecords:
    """Read records; a line that is cut off, or is no record, is skipped and named in `faults`.

    Raises:
        DataError: A file cannot be read, or no line of any file is a record.
    """
    found = FoundRecords()
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        for row, line in enumerate(lines, start=1):
            record = _record(line)
            if record is None:
                if line.strip():
                    found.faults.append(f"{path}, line {row}: not a complete record, left out")
                continue
            _take(record, path.parent, found)
    if not found.records:
        faults = "; ".join(found.faults[:3]) or "the file is empty"
        raise DataError(f"{', '.join(map(str, files[:3]))}: contains no trajectory ({faults}).")
    return found


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(record, dict) and all(
        isinstance(record.get(name), list) and all(isinstance(part, dict) for part in record[name])
        for name in ("images", "turns")
    )
    return record if is_one else None


def _take(record: Record, folder: Path, found: FoundRecords) -> None:
    record["run"] = str(folder.parent)
    if "step" not in record and (match := re.fullmatch(r"step_(\d+)", folder.name)):
        record["step"] = int(match.group(1))
    for image in record["images"]:
        name = str(image.get("file"))
        # A record may come from anywhere, so it may name only files in its own folder.
        if _INSIDE.fullmatch(name) and ".." not in name:
            image["file"] = Path(name).name
            found.images.setdefault(image["file"], folder / name)
    found.records.append(record)
