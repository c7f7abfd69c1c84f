"""Keeps one metrics.csv per stage, even if a stage was interrupted and resumed.

Lightning's CSVLogger cannot continue a file from an earlier run: it raises if the columns differ. So the earlier
attempt's file is renamed before the new attempt, and joined with the new file afterwards.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = "metrics.csv"

Row = dict[str, str]

#: (step, value), in the order of the steps.
Points = list[tuple[float, float]]


def set_aside(folder: Path) -> None:
    """Rename metrics.csv to the next free metrics.<n>.csv."""
    current = folder / FILE
    if current.exists():
        current.rename(folder / f"metrics.{len(_earlier(folder)) + 1}.csv")


def join(folder: Path) -> None:
    """Write all attempts into metrics.csv; for a step that several attempts logged, the last one counts.

    A test trains no steps, so an attempt that only tests does not replace any steps of earlier attempts.
    """
    earlier = _earlier(folder)
    if not earlier:
        return
    rows: list[Row] = []
    for path in [*earlier, folder / FILE]:
        attempt = _read(path)
        first = min((int(row["step"]) for row in attempt if not _is_of_test(row)), default=None)
        rows = [row for row in rows if first is None or int(row["step"]) < first] + attempt
    columns = sorted({name for row in rows for name in row})
    joined = folder / f"{FILE}.new"
    with joined.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    joined.replace(folder / FILE)
    for path in earlier:
        path.unlink()


def read_curves(path: Path) -> dict[str, Points]:
    """The curves of a metrics.csv by metric, without empty cells and non-finite values."""
    points: dict[str, dict[float, float]] = {}
    for row in _read(path):
        step = _number(row.get("step"))
        if step is None:
            continue
        for name, cell in row.items():
            value = _number(cell)
            if name not in ("step", "epoch", None) and value is not None:
                points.setdefault(name, {})[step] = value
    return {name: sorted(at_step.items()) for name, at_step in points.items()}


def merge(logs: Iterable[Mapping[str, Points]]) -> dict[str, Points]:
    """Merge the curves of several logs of one run; for a step in several logs, the last one counts."""
    merged: dict[str, dict[float, float]] = {}
    for log in logs:
        for name, points in log.items():
            merged.setdefault(name, {}).update(points)
    return {name: sorted(at_step.items()) for name, at_step in merged.items()}


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "nan")
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _is_of_test(row: Row) -> bool:
    return any(cell and name.startswith("test/") for name, cell in row.items())


def _earlier(folder: Path) -> list[Path]:
    return sorted(folder.glob("metrics.*.csv"), key=lambda path: int(path.name.split(".")[1]))


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
