"""Shows an evaluation: the table in the terminal, and a page with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cv_lightning.data.corruption import CORRUPTIONS, SEVERITIES
from cv_lightning.evaluation.conditions import UPRIGHT
from cv_lightning.evaluation.robustness import INDICES, Index
from cv_lightning.evaluation.table import CELLS, MEAN, Cells, EvaluationTable
from cv_lightning.pages.figures import bars, curves
from cv_lightning.pages.shell import render
from cv_lightning.pages.tables import TextTable, show_table, wide_console


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: str
    form: str = "{:.2f}"
    has_interval: bool = False


_SHARE = "{:.1%}"

_COLUMNS = (
    _Column("n", "n", "{:.0f}"),
    _Column("accuracy", "accuracy", _SHARE, has_interval=True),
    _Column("drop", "drop", _SHARE, has_interval=True),
    _Column("called", "tool_rate", _SHARE),
    _Column("restored", "restored_rate", _SHARE),
    _Column("turns", "mean_turns"),
    _Column("calls", "n_calls"),
    _Column("errors", "error_rate", _SHARE),
    _Column("right after\nan error", "right_after_error", _SHARE),
    _Column("operations\nper call", "chain_length"),
    _Column("emergent", "emergent_rate", _SHARE),
    _Column("required\ntools used", "required_recall", _SHARE),
    _Column("crop\nIoU", "crop_iou"),
    _Column("exact\ntools", "exact_tools", _SHARE),
)

_TOOL_COLUMNS = (
    _Column("with tools", "accuracy", _SHARE, has_interval=True),
    _Column("without", "alone", _SHARE),
    _Column("gain", "tool_gain", _SHARE),
    _Column("harm", "tool_harm", _SHARE),
    _Column("gain - harm", "tool_effect", _SHARE, has_interval=True),
)

#: Bars of the second figure -> cell, color.
_TOOL_BARS = {"a tool was called": ("tool_rate", 3), "the last view is upright": ("restored_rate", 2)}


def print_table(table: EvaluationTable, facts: Mapping[str, Any], path: Path) -> None:
    """Print the table: shares in percent, intervals below the values; a cell is blank if nothing was counted."""
    console = wide_console()
    for one in (_results(table, facts), _effects(table), _indices(table)):
        if one.rows:
            show_table(one, console)
    for label, tools in _emergent(table).items():
        console.print(f"tools that nothing requires, {label}: {tools}", soft_wrap=True, markup=False)
    console.print(f"page: {path}", soft_wrap=True, markup=False)


def write_page(table: EvaluationTable, facts: Mapping[str, Any], folder: Path) -> Path:
    """Write `results.html`, a self-contained page; returns its path."""
    name = str(facts["policy"])
    labels = [label for label in table.rows if label != MEAN]
    accuracy = {label: share for label in labels if (share := table.rows[label]["accuracy"]) is not None}
    intervals = {label: _interval(table.rows[label], "accuracy") or (0.0, 0.0) for label in accuracy}
    tools = {bar: {label: table.rows[label][cell] or 0.0 for label in labels} for bar, (cell, _) in _TOOL_BARS.items()}
    tool_colors = {bar: color for bar, (_, color) in _TOOL_BARS.items()}
    page = render(
        "evaluation/results.html",
        title=f"Robustness of {name}",
        policy=name,
        facts=_facts(facts, table),
        accuracy_bars=bars({name: accuracy}, {name: 1}, {name: intervals}) if accuracy else None,
        tool_colors=tool_colors,
        tool_bars=bars(tools, tool_colors, y_label="questions, %") if labels else None,
        results=_results(table, facts),
        effects=_effects(table),
        robustness=_indices(table),
        formulas=INDICES,
        severities=_severities(table),
        emergent=_emergent(table),
        families=_families(table, labels),
        cells=CELLS,
        headings={column.cell: column.heading for column in (*_TOOL_COLUMNS, *_COLUMNS)},
    )
    path = folder / "results.html"
    path.write_text(page, encoding="utf-8")
    return path


def _facts(facts: Mapping[str, Any], table: EvaluationTable) -> str:
    twice = ", each with and without tools" if _effects(table).rows else ""
    asked = f"{facts['questions']} questions times conditions{twice}, {facts['asked_now']} asked in this run"
    left_out, usage = facts["not_answered"], facts.get("usage")
    spent = ""
    if usage:
        tokens = f"{usage['input_tokens']:,.0f} input and {usage['output_tokens']:,.0f} output tokens"
        spent = f"; {usage['requests']:.0f} requests, {usage['from_cache']:.0f} more from cache, {tokens}"
        spent += f", cost {usage['cost']:.2f}" if usage["cost"] else ""
    return asked + (f", {left_out} not answered" if left_out else "") + spent


def _results(table: EvaluationTable, facts: Mapping[str, Any]) -> TextTable:
    return _of_columns(f"{facts['policy']}: {_facts(facts, table)}", _COLUMNS, table)


def _effects(table: EvaluationTable) -> TextTable:
    """The table of tool effects; it has no rows if the policy was not also asked without tools."""
    is_compared = any(cells["alone"] is not None for cells in table.rows.values())
    title = "The same questions with and without tools, %"
    return _of_columns(title, _TOOL_COLUMNS, table) if is_compared else TextTable(title, [], [])


def _of_columns(title: str, columns: Sequence[_Column], table: EvaluationTable) -> TextTable:
    """A table of those columns in which anything was counted."""
    columns = [column for column in columns if any(cells[column.cell] is not None for cells in table.rows.values())]
    rows = [[label, *(_text(cells, column) for column in columns)] for label, cells in table.rows.items()]
    return TextTable(title, ["", *(column.heading for column in columns)], rows)


def _text(cells: Cells, column: _Column) -> str:
    value = cells[column.cell]
    if value is None:
        return ""
    text = column.form.format(value).rstrip("%")
    interval = _interval(cells, column.cell) if column.has_interval else None
    return text + (f"\n({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _interval(cells: Cells, cell: str) -> tuple[float, float] | None:
    low, high = cells[f"{cell}_low"], cells[f"{cell}_high"]
    return None if low is None or high is None else (low, high)


def _indices(table: EvaluationTable) -> TextTable:
    rows = [
        [
            f"{len(one.conditions)} {group}",
            one.worst,
            *(_index(one.indices[name]) if name in one.indices else "" for name in INDICES),
        ]
        for group, one in table.robustness.items()
    ]
    headings = ["", "worst", *(name.replace("_", "\n") for name in INDICES)]
    return TextTable("Robustness over the changed conditions, %", headings, rows)


def _index(index: Index) -> str:
    value, interval = f"{100 * index.value:.1f}", f"({100 * index.low:.1f} to {100 * index.high:.1f})"
    return f"{value}\n{interval}" if index.low < index.high else value


def _severities(table: EvaluationTable) -> dict[str, Markup]:
    """A panel for each corruption with at least two severities, by title."""
    start = table.rows.get(UPRIGHT, {}).get("accuracy")
    panels = {}
    for name in CORRUPTIONS:
        points = [
            (float(level), 100 * share)
            for level in SEVERITIES
            if (share := table.rows.get(f"{name}_{level}", {}).get("accuracy")) is not None
        ]
        if len(points) > 1:
            whole = [(0.0, 100 * start), *points] if start is not None else points
            figure = curves({name: [whole]}, {name: 1}, x_label="severity", is_percent=True)
            panels[f"{name}: accuracy, %"] = figure
    return panels


def _emergent(table: EvaluationTable) -> dict[str, str]:
    counts = {label: [f"{tool} {count}" for tool, count in tools.items()] for label, tools in table.emergent.items()}
    return {label: ", ".join(some) for label, some in counts.items() if some}


def _families(table: EvaluationTable, labels: list[str]) -> TextTable:
    rows = [
        [family, *(f"{100 * shares[label]:.1f}" if label in shares else "" for label in labels)]
        for family, shares in table.families.items()
    ]
    return TextTable("Accuracy by family", ["accuracy, %", *labels], rows)
