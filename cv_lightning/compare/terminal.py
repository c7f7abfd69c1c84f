"""A comparison in the terminal: tables as wide as their words, curves in block characters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cv_lightning.compare.answers import ALL, PairedTable
from cv_lightning.compare.comparison import MEAN, Comparison
from cv_lightning.compare.sparklines import sparklines
from cv_lightning.compare.summary import Metric, Value

#: Cells that are shares, shown in percent.
SHARES = {"accuracy", "drop", "restored_rate", "tool_rate", "error_rate", "right_after_error"}

_MEANING_OF_P = "p: are these policies equally good on such questions? Whether training repeats it, the seeds say."

#: Rows of keys that not every group has.
_MOST_LACKED = 8

#: Characters of a curve, at least and at most.
_LENGTHS = (8, 28)

#: Columns that the names beside curves take.
_BESIDE_CURVES = 56

#: A width at which no table is folded.
_ENDLESS = 10_000


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print all of it."""
    console = console or Console(highlight=False)
    if console.width < 120 and not console.is_terminal:
        console = Console(highlight=False, width=140)
    for table in tables(comparison, console.width):
        # In the table it would be broken at the table's width.
        title, table.title = table.title, None
        console.print(Text(str(title), style="bold"))
        console.print(table)
    for note in comparison.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def tables(comparison: Comparison, width: int) -> Iterator[Table]:
    """The tables that have something in them, for a terminal of `width` columns."""
    names = [group.name for group in comparison.groups]
    yield _runs(comparison)
    if comparison.differing:
        yield _differing(comparison, names)
    yield from _metrics(comparison, names)
    for table in comparison.paired:
        if table.rows:
            wide = _paired(table)
            yield wide if Console(width=_ENDLESS).measure(wide).maximum <= width else _paired_narrow(table)
    yield from _conditions(comparison, names)
    yield from _endings(comparison, names)
    yield from _curves(comparison, max(_LENGTHS[0], min(_LENGTHS[1], (width - _BESIDE_CURVES) // 2)))


def _runs(comparison: Comparison) -> Table:
    table = _table("Runs", ["", "seeds", "steps", "minutes", "answers", "where"], right=False)
    for group in comparison.groups:
        steps = [max((points[-1][0] for points in run.curves.values()), default=0.0) for run in group.runs]
        minutes = [run.minutes[-1][1] for run in group.runs if run.minutes]
        first = group.runs[0]
        where = first.source + (f" and {len(group.runs) - 1} more" if len(group.runs) > 1 else "")
        if first.evaluated_by:
            where += f"\nanswers: {first.evaluated_by}" + (" ..." if len(group.runs) > 1 else "")
        table.add_row(
            group.name,
            ", ".join("-" if seed is None else str(seed) for seed in group.seeds),
            f"{sum(steps) / len(steps):,.0f}",
            f"{sum(minutes) / len(minutes):.1f}" if minutes else "-",
            f"{sum(len(run.answers) for run in group.runs):,}" if any(run.answers for run in group.runs) else "-",
            Text(where, overflow="fold"),
        )
    return table


def _differing(comparison: Comparison, names: Sequence[str]) -> Table:
    """Values of keys that all groups have; of keys that some lack, because their classes are others, the first few."""
    table = _table("What differs", ["", *names], right=False)
    shared = {key: cells for key, cells in comparison.differing.items() if all(cells)}
    lacked = {key: cells for key, cells in comparison.differing.items() if not all(cells)}
    for key, cells in [*shared.items(), *list(lacked.items())[:_MOST_LACKED]]:
        table.add_row(key, *(Text(_short_class(cell) or "-") for cell in cells))
    if len(lacked) > _MOST_LACKED:
        table.caption = f"and {len(lacked) - _MOST_LACKED} more keys that only some have: see --html or --json"
    return table


def _short_class(value: str) -> str:
    return value.rpartition(".")[2] if re.fullmatch(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*", value) else value


def _metrics(comparison: Comparison, names: Sequence[str]) -> Iterator[Table]:
    rows = {name: comparison.metrics[name] for name in comparison.shown}
    if rows:
        table = _table("Metrics: at the end (95 % interval over seeds); best, at its step", ["", *names])
        for name, cells in rows.items():
            table.add_row(name, *(metric_text(cell) for cell in cells))
        yield table


def metric_text(metric: Metric | None, line: str = "\n") -> str:
    """Where a metric ends, with its interval, and its best value with the step."""
    if metric is None:
        return "-"
    text = number(metric.final.mean) + _interval(metric.final.interval)
    if metric.best is not None and metric.best_step is not None:
        text += f"{line}best {number(metric.best.mean)} at {metric.best_step:,.0f}"
    return text


def _interval(interval: tuple[float, float] | None, scale: float = 1.0) -> str:
    if interval is None:
        return ""
    low, high = (number(scale * end) if scale == 1.0 else f"{scale * end:.1f}" for end in interval)
    return f" ({low} to {high})"


def _paired(paired: PairedTable) -> Table:
    heads = ["", "n", paired.first, paired.second, "difference", f"only\n{paired.first}", f"only\n{paired.second}"]
    table = _table(_title(paired), [*heads, "p", "p, Holm", "test", "seeds\nahead"])
    for cells in paired_cells(paired):
        table.add_row(*cells, end_section=cells[0] == ALL)
    table.caption = _MEANING_OF_P
    return table


def _paired_narrow(paired: PairedTable) -> Table:
    table = _table(_title(paired), ["", "difference", "one alone\nis right", "p", "seeds\nahead"])
    for condition, _, _, _, difference, first, second, p, p_holm, _, seeds in paired_cells(paired):
        table.add_row(condition, difference, f"{first} : {second}", p_holm or p, seeds, end_section=condition == ALL)
    tests = dict.fromkeys(row.test for row in paired.rows if row.condition != ALL)
    over_all = f"; over all: {paired.rows[-1].test}" if paired.rows[-1].condition == ALL else ""
    alone = f"one alone: {paired.first} : {paired.second}"
    table.caption = f"{alone}. Tests: {', '.join(tests)}, Holm{over_all}.\n{_MEANING_OF_P}"
    return table


def _title(paired: PairedTable) -> str:
    pairs = f"{paired.n_shared:,} pairs of answers"
    return f"{paired.second} against {paired.first} on the same questions, % right ({pairs})"


def paired_cells(paired: PairedTable, line: str = "\n") -> list[list[str]]:
    """The rows of a paired table in words."""
    return [
        [
            row.condition,
            f"{row.n:,}",
            f"{100 * row.first:.1f}",
            f"{100 * row.second:.1f}",
            f"{100 * row.difference:+.1f}"
            + (f"{line}({100 * row.interval[0]:+.1f} to {100 * row.interval[1]:+.1f})" if row.interval else ""),
            "-" if row.only_first is None else f"{row.only_first:,}",
            "-" if row.only_second is None else f"{row.only_second:,}",
            p_text(row.p),
            p_text(row.p_holm) if row.p_holm is not None else "",
            row.test,
            f"{row.seeds_ahead} of {row.n_seeds}" if row.n_seeds else "-",
        ]
        for row in paired.rows
    ]


def p_text(p: float) -> str:
    """A p value as it is printed."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _conditions(comparison: Comparison, names: Sequence[str]) -> Iterator[Table]:
    accuracy = comparison.conditions.get("accuracy")
    if accuracy:
        table = _table("Robustness: accuracy on held-out questions, % (95 % interval)", ["", *names])
        for label, cells in accuracy.items():
            table.add_row(label, *(value_text(cell, "accuracy") for cell in cells), end_section=label == MEAN)
        yield table
    means = {cell: rows[MEAN] for cell, rows in comparison.conditions.items() if MEAN in rows and cell != "accuracy"}
    if means:
        table = _table("The same tests, mean over the orientations", ["", *names])
        for cell, values in means.items():
            table.add_row(cell + (", %" if cell in SHARES else ""), *(value_text(value, cell) for value in values))
        yield table


def value_text(value: Value | None, cell: str) -> str:
    """A cell of the table of an evaluation."""
    if value is None:
        return "-"
    if cell in SHARES:
        return f"{100 * value.mean:.1f}" + _interval(value.interval, 100.0)
    return f"{value.mean:.2f}" + _interval(value.interval)


def _endings(comparison: Comparison, names: Sequence[str]) -> Iterator[Table]:
    """Reward terms and tools at the end of training."""
    rewards, shares = comparison.under("reward/"), comparison.under("components/share/")
    if len(rewards) > 1:
        table = _table("Reward terms at the end, and their share of the variance within groups", ["", *names])
        for term, cells in rewards.items():
            table.add_row(term, *map(_term_text, cells, shares.get(term, [None] * len(names))))
        yield table
    histograms = {
        "share of rollouts at the end of training": _ends(comparison.under("tools/used/")),
        "share of the test's questions": comparison.answer_tools,
    }
    for what, tools in histograms.items():
        largest = max((share for shares_of in tools.values() for share in shares_of if share), default=0.0)
        if largest:
            table = _table(f"Tools: {what}, %", ["", *names])
            for tool, shares_of in sorted(tools.items(), key=lambda entry: -max(share or 0.0 for share in entry[1])):
                table.add_row(tool, *("-" if share is None else _bar(share, largest) for share in shares_of))
            yield table


def _term_text(term: Metric | None, share: Metric | None) -> str:
    if term is None:
        return "-"
    return number(term.final.mean) + (f" · {100 * share.final.mean:.0f} %" if share is not None else "")


def _ends(metrics: Mapping[str, Sequence[Metric | None]]) -> dict[str, list[float | None]]:
    return {name: [None if cell is None else cell.final.mean for cell in cells] for name, cells in metrics.items()}


def _bar(share: float, largest: float) -> str:
    return f"{'█' * round(12 * share / largest)} {100 * share:.1f}"


def _curves(comparison: Comparison, length: int) -> Iterator[Table]:
    rows: list[tuple[str, str, str, str]] = []
    ends = {False: 0.0, True: 0.0}
    for name in comparison.shown:
        lines = {}
        for over_minutes in ends:
            series = comparison.series(name, is_over_minutes=over_minutes)
            lasts = [points[-1][0] for curves in series.values() for points in curves]
            ends[over_minutes] = max([ends[over_minutes], *lasts])
            lines[over_minutes] = sparklines(series, length)
        rows += [
            (name if place == 0 else "", group, line, lines[True].get(group, ""))
            for place, (group, line) in enumerate(lines[False].items())
        ]
    if rows:
        over_time = f"over {ends[True]:.1f} minutes" if ends[True] else ""
        heads = ["", "", f"over {ends[False]:,.0f} steps", over_time]
        table = _table("Curves, means over the seeds, each metric on a scale of its own", heads, right=False)
        for row in rows:
            table.add_row(*row)
        yield table


def number(value: float) -> str:
    """A number of any size in a few digits."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.2e}"


def _table(title: str, columns: Sequence[str], *, right: bool = True) -> Table:
    table = Table(title=title, caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if right and place else "left", overflow="fold")
    return table
