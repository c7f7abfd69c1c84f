"""Shows a comparison in the terminal: tables as wide as their text, curves in block characters."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from cv_lightning.compare import tables
from cv_lightning.compare.comparison import Comparison
from cv_lightning.compare.sparklines import sparklines
from cv_lightning.pages.tables import TextTable, for_terminal, show_table, wide_console

#: Largest number of rows for keys that some groups lack.
_MOST_LACKED = 8

#: Shortest and longest curve in characters, and the width of the names beside curves.
_LENGTHS, _BESIDE_CURVES = (8, 28), 56

#: A width at which no table is wrapped.
_ENDLESS = 10_000


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the whole comparison."""
    console = console or wide_console()
    for table in _tables(comparison, console.width):
        if table.rows:
            show_table(table, console)
    for note in comparison.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def _tables(comparison: Comparison, width: int) -> Iterator[TextTable]:
    yield tables.runs(comparison)
    yield tables.differing(comparison, _MOST_LACKED)
    yield tables.metrics(comparison, comparison.shown)
    for paired in comparison.paired:
        wide = tables.paired(paired)
        fits = Console(width=_ENDLESS).measure(for_terminal(wide)).maximum <= width
        yield wide if fits else tables.paired_narrow(paired)
    yield tables.accuracies(comparison)
    yield tables.means(comparison)
    yield tables.reward_terms(comparison)
    for histogram in tables.histograms(comparison):
        yield _bars(histogram, [group.name for group in comparison.groups])
    yield _curves(comparison, max(_LENGTHS[0], min(_LENGTHS[1], (width - _BESIDE_CURVES) // 2)))


def _bars(histogram: tables.Histogram, names: list[str]) -> TextTable:
    largest = max(share for shares in histogram.shares.values() for share in shares if share is not None)
    rows = [
        [
            tool,
            *("-" if share is None else f"{'█' * round(12 * share / largest)} {100 * share:.1f}" for share in shares),
        ]
        for tool, shares in histogram.shares.items()
    ]
    return TextTable(f"{histogram.title}: {histogram.label}", ["", *names], rows)


def _curves(comparison: Comparison, length: int) -> TextTable:
    rows: list[list[str]] = []
    ends = {False: 0.0, True: 0.0}
    for name in comparison.shown:
        lines = {}
        for is_over_minutes in ends:
            series = comparison.series(name, is_over_minutes=is_over_minutes)
            lasts = [points[-1][0] for curves in series.values() for points in curves]
            ends[is_over_minutes] = max([ends[is_over_minutes], *lasts])
            lines[is_over_minutes] = sparklines(series, length)
        for place, (group, line) in enumerate(lines[False].items()):
            rows.append(["" if place else name, group, line, lines[True].get(group, "")])
    over_time = f"over {ends[True]:.1f} minutes" if ends[True] else ""
    head = ["", "", f"over {ends[False]:,.0f} steps", over_time]
    return TextTable("Curves: means over the seeds, each metric on its own scale", head, rows, is_prose=True)
