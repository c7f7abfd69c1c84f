"""A comparison as one self-contained page: the terminal's tables, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from markupsafe import Markup

from cv_lightning.compare import tables
from cv_lightning.compare.comparison import Comparison
from cv_lightning.compare.summary import on_grid
from cv_lightning.evaluation.table import MEAN
from cv_lightning.pages.figures import bars, curves
from cv_lightning.pages.shell import render
from cv_lightning.reports.metrics_log import Points

Number = TypeVar("Number")


def page(comparison: Comparison) -> str:
    """Render the page of a comparison."""
    names = [group.name for group in comparison.groups]
    colors = {name: place + 1 for place, name in enumerate(names)}
    return render(
        "compare/comparison.html",
        title=" against ".join(names[:3]) + (" and more" if len(names) > 3 else ""),
        comparison=comparison,
        tables=tables,
        colors=colors,
        notes=comparison.notes,
        paired=[tables.paired(table) for table in comparison.paired if table.rows],
        accuracy_bars=_accuracy_bars(comparison, names, colors),
        curves=_curves(comparison, colors),
        histograms=[
            (histogram, bars(_by_group(histogram.shares, names), colors, y_label=histogram.label))
            for histogram in tables.histograms(comparison)
        ],
    )


def _accuracy_bars(comparison: Comparison, names: Sequence[str], colors: Mapping[str, int]) -> Markup | None:
    accuracy = comparison.conditions.get("accuracy")
    if not accuracy:
        return None
    shown = {label: cells for label, cells in accuracy.items() if label != MEAN} or accuracy
    values = {
        name: {label: cell.mean for label, cell in cells.items()} for name, cells in _by_group(shown, names).items()
    }
    intervals = {
        name: {label: cell.interval for label, cell in cells.items() if cell.interval}
        for name, cells in _by_group(shown, names).items()
    }
    return bars(values, colors, intervals)


def _by_group(table: Mapping[str, Sequence[Number | None]], names: Sequence[str]) -> dict[str, dict[str, Number]]:
    """Convert row -> number in each group to group -> row -> number."""
    return {
        name: {row: cell for row, cells in table.items() if (cell := cells[place]) is not None}
        for place, name in enumerate(names)
    }


def _curves(comparison: Comparison, colors: Mapping[str, int]) -> dict[str, dict[str, Markup]]:
    """Heading -> title -> figure, for metrics that change."""
    terms = [f"reward/{term}" for term in comparison.under("reward/")]
    figures: dict[str, dict[str, Markup]] = {}
    for metric in dict.fromkeys([*comparison.shown, *terms]):
        over_steps = comparison.series(metric)
        if len({value for of_group in over_steps.values() for points in of_group for _, value in points}) < 2:
            continue
        for heading, series, label in (
            ("Curves over steps", over_steps, "step"),
            ("Curves over wall time", comparison.series(metric, is_over_minutes=True), "minutes of training"),
        ):
            placed = {name: _at_shared_places(of_group) for name, of_group in series.items()}
            if placed:
                figures.setdefault(heading, {})[metric] = curves(placed, colors, x_label=label)
    return figures


def _at_shared_places(of_group: Sequence[Points]) -> list[Points]:
    """The curves unchanged if they share their x values, as over steps; otherwise interpolated at common x values."""
    places = {tuple(place for place, _ in points) for points in of_group}
    return list(of_group) if len(places) == 1 else on_grid(of_group)
