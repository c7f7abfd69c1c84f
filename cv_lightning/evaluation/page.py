"""An evaluation for people: the table in the terminal, and a page with plots."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cv_lightning.data.corruption import CORRUPTIONS
from cv_lightning.evaluation.conditions import UPRIGHT
from cv_lightning.evaluation.table import CELLS, MEAN, Cells, EvaluationTable
from cv_lightning.reports.figures import bars, curves
from cv_lightning.reports.run_report import page

#: Columns: (heading, cell, its interval or None, whether it is a share).
_COLUMNS: tuple[tuple[str, str, tuple[str, str] | None, bool], ...] = (
    ("n", "n", None, False),
    ("accuracy", "accuracy", ("accuracy_low", "accuracy_high"), True),
    ("drop", "drop", ("drop_low", "drop_high"), True),
    ("called", "tool_rate", None, True),
    ("restored", "restored_rate", None, True),
    ("turns", "mean_turns", None, False),
    ("calls", "n_calls", None, False),
    ("errors", "error_rate", None, True),
    ("right after\nan error", "right_after_error", None, True),
    ("operations\nper call", "chain_length", None, False),
    ("emergent", "emergent_rate", None, True),
    ("required\ntools used", "required_recall", None, True),
    ("crop\nIoU", "crop_iou", None, False),
    ("exact\ntools", "exact_tools", None, True),
)

#: Bars of the second figure and their colours.
_TOOL_BARS = (("a tool was called", 3), ("the last view stands upright", 2))


def print_table(table: EvaluationTable, facts: Mapping[str, Any], path: Path) -> None:
    """Print the table; shares in percent, intervals below the values, what nothing was counted for left blank."""
    console = Console(highlight=False)
    shown = Table(title=f"{facts['policy']}: {_facts(facts)}")
    shown.add_column("", overflow="fold")
    columns = _used_columns(table)
    for heading, *_ in columns:
        shown.add_column(heading, justify="right")
    for label, cells in table.rows.items():
        shown.add_row(label, *(_text(cells, column) for column in columns), end_section=label == MEAN)
    if console.width < 120 and not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(shown)
    for label, tools in table.emergent.items():
        if tools:
            console.print(f"tools that nothing requires, {label}: {_counts(tools)}", soft_wrap=True)
    console.print(f"page: {path}", soft_wrap=True)


def write_page(table: EvaluationTable, facts: Mapping[str, Any], folder: Path) -> Path:
    """Write `results.html`, self-contained; returns its path."""
    name = str(facts["policy"])
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{escape(_facts(facts))}</p>",
        "<h2>Accuracy</h2>",
        "<p>By what was done to the image, with 95 % intervals.</p>",
        _accuracy(table, name),
        "<h2>Use of tools</h2>",
        f'<p>Shares of the questions. <span class="legend">{_legend()}</span></p>',
        _tools(table),
        "<h2>Table</h2>",
        "<p>Shares in percent. The drop is against upright, over the same questions.</p>",
        _html_table(table),
        *_severity(table),
        *_emergent(table),
        *_families(table),
        "<h2>Columns</h2>",
        "<dl>",
        *(f"<dt><b>{escape(cell)}</b></dt><dd>{escape(meaning)}</dd>" for cell, meaning in CELLS.items()),
        "</dl>",
    ]
    path = folder / "results.html"
    path.write_text(page(f"Robustness of {name}", parts), encoding="utf-8")
    return path


def _facts(facts: Mapping[str, Any]) -> str:
    asked = f"{facts['questions']} questions times conditions, {facts['asked_now']} asked in this run"
    left_out, usage = facts["not_answered"], facts.get("usage")
    spent = ""
    if usage:
        tokens = f"{usage['input_tokens']:,.0f} input and {usage['output_tokens']:,.0f} output tokens"
        spent = f"; {usage['requests']:.0f} requests, {usage['from_cache']:.0f} more from cache, {tokens}"
        spent += f", cost {usage['cost']:.2f}" if usage["cost"] else ""
    return asked + (f", {left_out} not answered" if left_out else "") + spent


def _used_columns(table: EvaluationTable) -> list[tuple[str, str, tuple[str, str] | None, bool]]:
    return [column for column in _COLUMNS if any(cells[column[1]] is not None for cells in table.rows.values())]


def _text(cells: Cells, column: tuple[str, str, tuple[str, str] | None, bool], line: str = "\n") -> str:
    _, cell, interval, is_share = column
    value = cells[cell]
    if value is None:
        return ""
    text = f"{100 * value:.1f}" if is_share else f"{value:.0f}" if cell == "n" else f"{value:.2f}"
    low, high = (cells[interval[0]], cells[interval[1]]) if interval else (None, None)
    if low is None or high is None:
        return text
    return f"{text}{line}({100 * low:.1f} to {100 * high:.1f})"


def _accuracy(table: EvaluationTable, name: str) -> str:
    shares = {label: cells["accuracy"] for label, cells in table.rows.items()}
    values = {label: share for label, share in shares.items() if share is not None and label != MEAN}
    intervals = {
        label: (table.rows[label]["accuracy_low"] or 0.0, table.rows[label]["accuracy_high"] or 0.0) for label in values
    }
    if not values:
        return '<p class="missing">No answer was judged.</p>'
    return f'<div class="scroll wide">{bars({name: values}, {name: 1}, {name: intervals})}</div>'


def _legend() -> str:
    keys = (f'<i class="key" style="background: var(--stage-{number})"></i>{name}' for name, number in _TOOL_BARS)
    return "".join(f"<span>{key}</span>" for key in keys)


def _tools(table: EvaluationTable) -> str:
    cells = {"a tool was called": "tool_rate", "the last view stands upright": "restored_rate"}
    shares = {
        name: {label: row[cell] or 0.0 for label, row in table.rows.items() if label != MEAN}
        for name, cell in cells.items()
    }
    if not table.rows:
        return '<p class="missing">Nothing was answered.</p>'
    return f'<div class="scroll wide">{bars(shares, dict(_TOOL_BARS), y_label="questions, %")}</div>'


def _severity(table: EvaluationTable) -> list[str]:
    """A panel for each corruption that was done at two severities or more."""
    start = table.rows.get(UPRIGHT, {}).get("accuracy")
    panels = []
    for name in CORRUPTIONS:
        points = [
            (float(level), 100 * share)
            for level in range(1, 6)
            if (share := table.rows.get(f"{name}_{level}", {}).get("accuracy")) is not None
        ]
        if len(points) > 1:
            whole = [(0.0, 100 * start), *points] if start is not None else points
            figure = curves({name: [whole]}, {name: 1}, x_label="severity", is_percent=True)
            panels.append(f"<div><h3>{escape(name)}: accuracy, %</h3>{figure}</div>")
    return ["<h2>Accuracy by severity</h2>", f'<div class="grid">{"".join(panels)}</div>'] if panels else []


def _emergent(table: EvaluationTable) -> list[str]:
    rows = [[escape(label), escape(_counts(tools))] for label, tools in table.emergent.items() if tools]
    return ["<h2>Tools that nothing requires</h2>", _rows(rows)] if rows else []


def _families(table: EvaluationTable) -> list[str]:
    if not table.families:
        return []
    labels = [label for label in table.rows if label != MEAN]
    head = [["accuracy, %", *map(escape, labels)]]
    body = [
        [escape(family), *(f"{100 * shares[label]:.1f}" if label in shares else "" for label in labels)]
        for family, shares in table.families.items()
    ]
    return ["<h2>Accuracy by family</h2>", _rows(body, head)]


def _html_table(table: EvaluationTable) -> str:
    columns = _used_columns(table)
    head = [["", *(escape(heading) for heading, *_ in columns)]]
    body = [
        [escape(label), *(escape(_text(cells, column, " ")) for column in columns)]
        for label, cells in table.rows.items()
    ]
    return _rows(body, head)


def _rows(body: list[list[str]], head: list[list[str]] | None = None) -> str:
    def row(cells: list[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

    lines = [*(row(cells, "th") for cells in head or []), *(row(cells, "td") for cells in body)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _counts(tools: Mapping[str, int]) -> str:
    return ", ".join(f"{tool} {count}" for tool, count in tools.items())
