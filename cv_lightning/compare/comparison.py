"""The content of a comparison, independent of its display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from cv_lightning.compare.answers import PairedTable, pair_groups, tools_in_answers
from cv_lightning.compare.groups import RunGroup, differences, group_runs, join_evaluations
from cv_lightning.compare.run import Run
from cv_lightning.compare.statistics import interval_of_questions
from cv_lightning.compare.summary import HEADLINE, Metric, Value, chosen, over_minutes, summarize, value_of
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS
from cv_lightning.evaluation.table import MEAN
from cv_lightning.reports.metrics_log import Points

#: Cells of an evaluation's table that are shown by condition, in this order.
CELLS = ("accuracy", "drop", "restored_rate", "tool_rate", "mean_turns", "n_calls", "error_rate", "right_after_error")


@dataclass
class Comparison:
    """Groups of runs next to each other; lists are in the order of the groups.

    Attributes:
        groups: The groups; all others are compared with the first.
        differing: See `groups.differences`.
        metrics: Every metric -> its numbers in each group, None if no run of the group logged it.
        shown: The requested metrics.
        conditions: Cell -> condition -> its number in each group.
        paired: Each further group compared with the first one, on the same questions.
        answer_tools: Tool -> share of the questions in which it had an effect, in each group with answers.
        notes: Warnings for the reader.
    """

    groups: list[RunGroup]
    differing: dict[str, list[str]]
    metrics: dict[str, list[Metric | None]]
    shown: list[str]
    conditions: dict[str, dict[str, list[Value | None]]]
    paired: list[PairedTable]
    answer_tools: dict[str, list[float | None]]
    notes: list[str]

    def under(self, prefix: str) -> dict[str, list[Metric | None]]:
        """Metrics with a prefix that are not 0 in every group, by the rest of their names."""
        return {
            name.removeprefix(prefix): cells
            for name, cells in self.metrics.items()
            if name.startswith(prefix) and any(cell is not None and any(cell.final.of_runs) for cell in cells)
        }

    def series(self, metric: str, *, is_over_minutes: bool = False) -> dict[str, list[Points]]:
        """A metric's curves of at least two points by group, over steps or over minutes of training."""
        found: dict[str, list[Points]] = {}
        for group in self.groups:
            curves = [(run, run.curves.get(metric, [])) for run in group.runs]
            placed = [over_minutes(run, points) if is_over_minutes else points for run, points in curves]
            found[group.name] = [points for points in placed if len(points) > 1]
        return {name: curves for name, curves in found.items() if curves}

    def as_json(self) -> dict[str, Any]:
        """The whole comparison in plain values, with the curves of the shown metrics."""
        return {
            "groups": [_plain_group(group) for group in self.groups],
            "differing": self._by_group(self.differing),
            "metrics": self._by_group(self.metrics),
            "conditions": {cell: self._by_group(rows) for cell, rows in self.conditions.items()},
            "paired": [asdict(table) for table in self.paired],
            "answer_tools": self._by_group(self.answer_tools),
            "curves": {name: [_plain_curves(group, name) for group in self.groups] for name in self.shown},
            "notes": self.notes,
        }

    def _by_group(self, table: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {
                group.name: asdict(cell) if isinstance(cell, Metric | Value) else cell
                for group, cell in zip(self.groups, cells, strict=True)
            }
            for name, cells in table.items()
        }


def compare(runs: Sequence[Run], patterns: Sequence[str] = ()) -> Comparison:
    """Compare runs; the group of the first run is compared with every other group.

    Args:
        runs: The runs in the order of display.
        patterns: Metrics to show, such as `rl/*`; if empty, the headline metrics.

    Raises:
        ConfigError: There are fewer than two runs, or patterns match no metric.
        DataError: No two groups have a metric in common.
    """
    faults = [fault for run in runs for fault in run.faults]
    empty = [run.source for run in runs if run.is_empty]
    groups = group_runs(join_evaluations([run for run in runs if not run.is_empty]))
    if sum(len(group.runs) for group in groups) < 2:
        raise ConfigError(_too_few(groups, empty))
    _check_common(groups)
    names = sorted({name for group in groups for name in group.metrics})
    shown = chosen(names, patterns or HEADLINE)
    if patterns and not shown:
        raise ConfigError(f"--metrics: {' '.join(patterns)} matches none of: {', '.join(names)}.")
    paired = [pair_groups(groups[0], other) for other in groups[1:] if groups[0].is_answered and other.is_answered]
    tools = [tools_in_answers(group) for group in groups]
    return Comparison(
        groups=groups,
        differing=differences(groups),
        metrics={name: [summarize(group, name) for group in groups] for name in names},
        shown=shown,
        conditions=_conditions(groups, names),
        paired=paired,
        answer_tools={tool: [of.get(tool) for of in tools] for tool in dict.fromkeys(t for of in tools for t in of)},
        notes=[*faults, *(f"{source}: is empty, left out" for source in empty), *_notes(groups, paired)],
    )


def _too_few(groups: Sequence[RunGroup], empty: Sequence[str]) -> str:
    left_out = f" ({', '.join(empty)}: empty)" if empty else ""
    if not groups:
        return f"There is nothing to compare{left_out}."
    return (
        f"There is only one run, {groups[0].runs[0].source}{left_out}: name another to compare it with. "
        "`view` and its report.html show a single run."
    )


def _check_common(groups: Sequence[RunGroup]) -> None:
    if len(groups) < 2:
        return
    counts = Counter(name for group in groups for name in group.metrics)
    if max(counts.values(), default=0) < 2 and sum(group.is_answered for group in groups) < 2:
        logged = "; ".join(f"{group.name} logged {_some(sorted(group.metrics))}" for group in groups)
        raise DataError(f"The runs have no metric in common: {logged}. Name runs of the same kind, or their tests.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"


def _conditions(groups: Sequence[RunGroup], names: Iterable[str]) -> dict[str, dict[str, list[Value | None]]]:
    """The numbers of tests, by cell and condition; if there are answers, intervals of accuracies come from them."""
    tables: dict[str, dict[str, list[Value | None]]] = {}
    logged = {name: tuple(name.split("/")) for name in names if name.startswith("test/")}
    for cell in CELLS:
        labels = [parts[2] for parts in logged.values() if len(parts) == 3 and parts[1] == cell]
        rows = {label: [_cell(group, cell, label) for group in groups] for label in _ordered(labels)}
        if rows:
            tables[cell] = rows
    return tables


def _ordered(labels: Iterable[str]) -> list[str]:
    """Sort labels: orientations first, as in the paper's table, then the rest, the mean last."""
    rank = {label: place for place, label in enumerate(ORIENTATION_CONDITIONS)}
    return sorted(set(labels), key=lambda label: (label == MEAN, rank.get(label, len(rank)), label))


def _cell(group: RunGroup, cell: str, label: str) -> Value | None:
    found = value_of([points[-1][1] for points in group.curves(f"test/{cell}/{label}")])
    if found is None or cell != "accuracy" or not group.is_answered:
        return found
    conditions = ORIENTATION_CONDITIONS if label == MEAN else (label,)
    scores: list[dict[str, float]] = []
    for run in group.runs:
        of_questions: dict[str, list[float]] = {}
        for record in run.answers:
            if record.score is not None and record.condition in conditions:
                of_questions.setdefault(record.item, []).append(record.score)
        scores.append({item: fmean(some) for item, some in of_questions.items()})
    return Value(found.mean, interval_of_questions(scores), found.of_runs)


def _notes(groups: Sequence[RunGroup], paired: Sequence[PairedTable]) -> list[str]:
    notes = []
    if len(groups) == 1:
        notes.append(f"All runs have the same config ({groups[0].name}), so there is no other group to compare with.")
    for table in paired:
        if not table.n_shared:
            notes.append(
                f"{table.first} and {table.second} answered no question in common "
                f"({table.n_first:,} and {table.n_second:,} answers): nothing is paired."
            )
        elif table.n_shared < max(table.n_first, table.n_second):
            notes.append(
                f"{table.first} and {table.second} share {table.n_shared:,} of {table.n_first:,} and "
                f"{table.n_second:,} answers; only these are paired."
            )
        if table.n_other_truth:
            notes.append(
                f"{table.n_other_truth:,} answers are not paired: {table.first} and {table.second} have questions of "
                "the same name with different right answers."
            )
    if not paired and len(groups) > 1:
        notes.append(
            "Nothing is paired: for differences on the same questions, test both policies with "
            "experiments/robustness.yaml and name the folders of these tests too."
        )
    return notes


def _plain_group(group: RunGroup) -> dict[str, Any]:
    runs = [
        {
            "source": run.source,
            "evaluated_by": run.evaluated_by,
            "seed": run.seed,
            "steps": run.last_step if run.curves else None,
            "minutes": run.minutes[-1][1] if run.minutes else None,
            "answers": len(run.answers),
            "facts": run.facts,
        }
        for run in group.runs
    ]
    return {"name": group.name, "runs": runs}


def _plain_curves(group: RunGroup, name: str) -> list[dict[str, Any]]:
    curves = []
    for run in group.runs:
        points = run.curves.get(name, [])
        minutes = [place for place, _ in over_minutes(run, points)]
        steps, values = ([point[axis] for point in points] for axis in (0, 1))
        curves.append({"source": run.source, "steps": steps, "minutes": minutes or None, "values": values})
    return curves
