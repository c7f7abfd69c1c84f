"""The tables of a comparison as text, shared by the terminal and the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cv_lightning.compare.answers import PairedTable
from cv_lightning.compare.comparison import Comparison
from cv_lightning.compare.summary import Metric, Value
from cv_lightning.evaluation.table import MEAN
from cv_lightning.pages.tables import TextTable

#: Cells that are shares, shown in percent.
SHARES = {"accuracy", "drop", "restored_rate", "tool_rate", "error_rate", "right_after_error"}

MEANING_OF_P = (
    "p tests whether these policies are equally good on such questions. "
    "Only the seeds show whether another training run repeats the difference."
)


def runs(comparison: Comparison) -> TextTable:
    """Every run, with its seed, length and location."""
    rows = [
        [
            group.name,
            "-" if run.seed is None else str(run.seed),
            f"{run.last_step:,.0f}",
            f"{run.minutes[-1][1]:.1f}" if run.minutes else "-",
            f"{len(run.answers):,}" if run.answers else "-",
            str(run.facts.get("code.commit", "-")),
            run.source + (f"\nanswers: {run.evaluated_by}" if run.evaluated_by else ""),
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    return TextTable("Runs", ["", "seed", "steps", "minutes", "answers", "commit", "from"], rows, is_prose=True)


def differing(comparison: Comparison, most_lacked: int = 0) -> TextTable:
    """Keys that all groups have, then the first few that some groups lack because their classes differ."""
    lacked = lacking(comparison).rows
    rows = [*_cells({key: cells for key, cells in comparison.differing.items() if all(cells)}), *lacked[:most_lacked]]
    n_more = len(lacked) - most_lacked
    note = f"and {n_more} more keys that only some groups have: see --html or --json" if n_more > 0 else ""
    return TextTable("What differs", _head(comparison), rows, note, is_prose=True)


def lacking(comparison: Comparison) -> TextTable:
    """Keys that only some groups have."""
    rows = _cells({key: cells for key, cells in comparison.differing.items() if not all(cells)})
    return TextTable("Keys that only some groups have", _head(comparison), rows, is_prose=True)


def _cells(differing: Mapping[str, Sequence[str]]) -> list[list[str]]:
    return [[key, *(_short_class(cell) or "-" for cell in cells)] for key, cells in differing.items()]


def _short_class(value: str) -> str:
    return value.rpartition(".")[2] if re.fullmatch(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*", value) else value


def metrics(comparison: Comparison, names: Sequence[str], *, with_runs: bool = False) -> TextTable:
    """Metrics at the end and at their best; optionally with the number of each run."""
    rows = [[name, *(metric_text(cell, with_runs) for cell in comparison.metrics[name])] for name in names]
    title = "Metrics: at the end (95 % interval over seeds), and best with its step"
    return TextTable(title, _head(comparison), rows)


def metric_text(metric: Metric | None, with_runs: bool = False) -> str:
    """The last value of a metric with its interval, and its best value with the step."""
    if metric is None:
        return "-"
    lines = [number(metric.final.mean) + _interval(metric.final.interval)]
    if metric.best is not None and metric.best_step is not None:
        lines.append(f"best {number(metric.best.mean)} at {metric.best_step:,.0f}")
    if with_runs and len(metric.final.of_runs) > 1:
        lines.append(", ".join(map(number, metric.final.of_runs)))
    return "\n".join(lines)


def _interval(interval: tuple[float, float] | None, scale: float = 1.0) -> str:
    if interval is None:
        return ""
    low, high = (number(scale * end) if scale == 1.0 else f"{scale * end:.1f}" for end in interval)
    return f" ({low} to {high})"


def paired(table: PairedTable) -> TextTable:
    """Two groups on the same questions; the most important columns come first, because a phone shows only these."""
    head = ["", "difference", "p", "p, Holm", "seeds\nahead", table.first, table.second]
    rows = [
        [
            row.condition,
            f"{100 * row.difference:+.1f}"
            + (f"\n({100 * row.interval[0]:+.1f} to {100 * row.interval[1]:+.1f})" if row.interval else ""),
            p_text(row.p),
            "" if row.p_holm is None else p_text(row.p_holm),
            f"{row.seeds_ahead} of {row.n_seeds}" if row.n_seeds else "-",
            f"{100 * row.first:.1f}",
            f"{100 * row.second:.1f}",
            "-" if row.only_first is None else f"{row.only_first:,}",
            "-" if row.only_second is None else f"{row.only_second:,}",
            f"{row.n:,}",
            row.test,
        ]
        for row in table.rows
    ]
    title = f"{table.second} against {table.first} on the same questions, % right ({table.n_shared:,} pairs of answers)"
    head += [f"only\n{table.first}", f"only\n{table.second}", "n", "test"]
    return TextTable(title, head, rows, MEANING_OF_P)


def paired_narrow(table: PairedTable) -> TextTable:
    """The same table in five columns."""
    rows = [
        [condition, difference, f"{only_first} : {only_second}", p_holm or p, seeds]
        for condition, difference, p, p_holm, seeds, _, _, only_first, only_second, _, _ in paired(table).rows
    ]
    tests = ", ".join(dict.fromkeys(row.test for row in table.rows))
    note = (
        f"only one is right: {table.first} : {table.second}. Tests: {tests}; p by condition is adjusted (Holm).\n"
        f"{MEANING_OF_P}"
    )
    return TextTable(paired(table).title, ["", "difference", "only one\nis right", "p", "seeds\nahead"], rows, note)


def p_text(p: float) -> str:
    """Format a p value."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def accuracies(comparison: Comparison) -> TextTable:
    """Accuracy by condition."""
    return _by_condition(comparison, "accuracy", "Robustness: accuracy on held-out questions, % (95 % interval)")


def means(comparison: Comparison) -> TextTable:
    """The other cells of a test, averaged over the orientations."""
    rows = [
        [_titled(cell), *(_value_text(value, cell) for value in of_cell[MEAN])]
        for cell, of_cell in comparison.conditions.items()
        if MEAN in of_cell and cell != "accuracy"
    ]
    return TextTable("The same tests, mean over the orientations", _head(comparison), rows)


def other_cells(comparison: Comparison) -> list[TextTable]:
    """The other cells of a test, by condition."""
    return [_by_condition(comparison, cell, _titled(cell)) for cell in comparison.conditions if cell != "accuracy"]


def _by_condition(comparison: Comparison, cell: str, title: str) -> TextTable:
    of_cell = comparison.conditions.get(cell, {})
    rows = [[label, *(_value_text(value, cell) for value in values)] for label, values in of_cell.items()]
    return TextTable(title, _head(comparison), rows)


def _titled(cell: str) -> str:
    return f"{cell}, %" if cell in SHARES else cell


def _value_text(value: Value | None, cell: str) -> str:
    if value is None:
        return "-"
    if cell in SHARES:
        return f"{100 * value.mean:.1f}" + _interval(value.interval, 100.0)
    return f"{value.mean:.2f}" + _interval(value.interval)


def reward_terms(comparison: Comparison) -> TextTable:
    """Weighted terms at the end of training, and their share of the variance within groups."""
    terms, shares = comparison.under("reward/"), comparison.under("components/share/")
    none: list[Metric | None] = [None] * len(comparison.groups)
    rows = [
        [term, *(_term_text(*pair) for pair in zip(cells, shares.get(term, none), strict=True))]
        for term, cells in terms.items()
    ]
    return TextTable("Reward terms at the end, and their share of the variance within groups", _head(comparison), rows)


def _term_text(term: Metric | None, share: Metric | None) -> str:
    if term is None:
        return "-"
    return number(term.final.mean) + (f" · {100 * share.final.mean:.0f} %" if share is not None else "")


@dataclass(frozen=True)
class Histogram:
    """The tools, and how often each group uses them.

    Attributes:
        title: The phase in which the use was counted.
        label: The unit, in percent.
        shares: Tool -> share in each group, None if it was not counted there; most used tools first.
    """

    title: str
    label: str
    shares: dict[str, list[float | None]]


def histograms(comparison: Comparison) -> Iterator[Histogram]:
    """The non-empty histograms of tool use."""
    used, families = (_ends(comparison.under(f"tools/{part}/")) for part in ("used", "family"))
    for title, label, shares in (
        ("Tools at the end of training", "rollouts, %", used),
        ("Tools in the answers to the test", "questions, %", comparison.answer_tools),
        ("Families of tools at the end of training", "tools used, %", families if len(families) > 1 else {}),
    ):
        most = {tool: max(share or 0.0 for share in of_groups) for tool, of_groups in shares.items()}
        if any(most.values()):
            yield Histogram(title, label, {tool: shares[tool] for tool in sorted(most, key=lambda tool: -most[tool])})


def _ends(of_metrics: Mapping[str, Sequence[Metric | None]]) -> dict[str, list[float | None]]:
    return {name: [None if cell is None else cell.final.mean for cell in cells] for name, cells in of_metrics.items()}


def number(value: float) -> str:
    """Format a number of any size with few digits."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.2e}"


def _head(comparison: Comparison) -> list[str]:
    return ["", *(group.name for group in comparison.groups)]
