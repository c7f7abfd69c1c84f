"""Draws curves in characters, on common axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cv_lightning.compare.summary import on_grid
from cv_lightning.reports.metrics_log import Points

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparklines(series: Mapping[str, Sequence[Points]], length: int) -> dict[str, str]:
    """The mean curve of each group in `length` characters; empty if no curve changes.

    Args:
        series: Group -> curves of its runs.
        length: Number of characters from 0 to the last x value of any curve.
    """
    last = max((points[-1][0] for of_group in series.values() for points in of_group), default=0.0)
    columns = {group: _columns(curves, last, length) for group, curves in series.items()}
    values = [value for of_group in columns.values() for value in of_group.values()]
    if not values or max(values) == min(values):
        return {}
    low, high = min(values), max(values)
    lines = {}
    for group, of_group in columns.items():
        shares = {column: (value - low) / (high - low) for column, value in of_group.items()}
        levels = {column: min(len(_BLOCKS) - 1, int(share * len(_BLOCKS))) for column, share in shares.items()}
        lines[group] = "".join(_BLOCKS[levels[column]] if column in levels else " " for column in range(length))
    return lines


def _columns(curves: Sequence[Points], last: float, length: int) -> dict[int, float]:
    """Mean value for each character."""
    if not last:
        return {}
    values: dict[int, list[float]] = {}
    for places in zip(*on_grid(curves, n=4 * length), strict=True):
        column = min(length - 1, int(length * places[0][0] / last))
        values.setdefault(column, []).extend(value for _, value in places)
    return {column: sum(some) / len(some) for column, some in values.items()}
