"""Makes the table of an evaluation from answers: a row per condition, bootstrap intervals, paired drops."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS, UPRIGHT
from cv_lightning.evaluation.intervals import accuracy_interval, bootstrap_interval
from cv_lightning.evaluation.robustness import Robustness, robustness

#: The row of unweighted means over the orientations (the paper's "average").
MEAN = "mean"

#: Cell -> its meaning, in the order of the columns.
CELLS: dict[str, str] = {
    "n": "questions answered",
    "unjudged": "answers for which the judge failed; they do not count in accuracy",
    "accuracy": "mean credit of the answers",
    "accuracy_low": "lower end of its 95 % interval (bootstrap, but exact if all or none of the answers are right)",
    "accuracy_high": "upper end of that interval",
    "drop": "accuracy lost against upright, over the questions judged in both",
    "drop_low": "lower end of its 95 % bootstrap interval, resampled in pairs",
    "drop_high": "upper end of that interval",
    "tool_rate": "questions with a call that parsed",
    "restored_rate": "questions whose last view is upright, to the pixel",
    "mean_turns": "turns per question",
    "n_calls": "calls per question",
    "error_rate": "attempted calls that failed or did not parse",
    "right_after_error": "questions with a failed call that were answered right in the end",
    "chain_length": "verified operations per call that ran",
    "emergent_rate": "questions with a tool that no task requires",
    "required_recall": "share of the required tools that were used, over the questions that require one",
    "crop_iou": "best overlap of a crop with the box, over the questions that require a crop",
    "exact_tools": "questions with exactly the required turns and crop, and no other",
    "alone": "mean credit of the same policy without tools, over the questions judged with and without",
    "tool_gain": "credit that tools won: the share of questions that they turned right",
    "tool_harm": "credit that tools lost: the share of questions that they turned wrong",
    "tool_effect": "gain minus harm",
    "tool_effect_low": "lower end of its 95 % bootstrap interval, resampled in pairs",
    "tool_effect_high": "upper end of that interval",
}

#: Ends of intervals, which have no mean over the orientations.
_ENDS = tuple(cell for cell in CELLS if cell.endswith(("_low", "_high")))

#: A value of None means that nothing was counted.
Cells = dict[str, float | None]


@dataclass(frozen=True)
class EvaluationTable:
    """The result of an evaluation.

    Attributes:
        rows: Condition -> cell of `CELLS` -> value; the last row is `MEAN` if there are at least two orientations.
        families: Family -> condition -> accuracy, if there are at least two families.
        emergent: Condition -> tool that no task requires -> number of questions in which it was used.
        robustness: "orientations" and "corruptions" -> indices over them.
    """

    rows: dict[str, Cells]
    families: dict[str, dict[str, float]]
    emergent: dict[str, dict[str, int]]
    robustness: dict[str, Robustness] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Every cell that has a value as `<cell>/<condition>`, and every index as `<index>/<group>`."""
        cells = {
            f"{cell}/{label}": value
            for cell in CELLS
            for label, cells in self.rows.items()
            if (value := cells[cell]) is not None
        }
        indices = {
            f"{name}/{group}": index.value
            for group, one in self.robustness.items()
            for name, index in one.indices.items()
        }
        return cells | indices


def make_table(
    records: Iterable[AnswerRecord],
    labels: Sequence[str],
    seed: int = 0,
    without_tools: Iterable[AnswerRecord] = (),
) -> EvaluationTable:
    """Make the table from answers.

    Args:
        records: Answers of one policy, with each question at most once per condition.
        labels: The conditions, in the order of the rows; conditions without an answer have no row.
        seed: Seed of the bootstrap.
        without_tools: Answers that the same policy gave without tools.
    """
    of_label: dict[str, list[AnswerRecord]] = {label: [] for label in labels}
    for record in records:
        of_label.setdefault(record.condition, []).append(record)
    of_label = {label: some for label, some in of_label.items() if some}
    reference = {record.item: record for record in of_label.get(UPRIGHT, ())}
    alone = {(record.item, record.condition): record for record in without_tools}
    rows = {label: _cells(some, reference, seed) | _tool_cells(some, alone, seed) for label, some in of_label.items()}
    orientations = [label for label in ORIENTATION_CONDITIONS if label in rows]
    if len(orientations) > 1:
        rows[MEAN] = {cell: _mean([rows[label][cell] for label in orientations]) for cell in CELLS}
        rows[MEAN] |= dict.fromkeys(_ENDS)
        rows[MEAN]["n"] = float(sum(len(of_label[label]) for label in orientations))
    emergent = {label: _count_emergent(some) for label, some in of_label.items()}
    return EvaluationTable(rows, _families(of_label), emergent, robustness(of_label, seed))


def _cells(records: Sequence[AnswerRecord], reference: Mapping[str, AnswerRecord], seed: int) -> Cells:
    scores = [record.score for record in records if record.score is not None]
    drops = _drops(records, reference)
    accuracy_low, accuracy_high = accuracy_interval(scores, seed) if scores else (None, None)
    drop_low, drop_high = bootstrap_interval(drops, seed=seed) if drops else (None, None)
    outcomes = [outcome for record in records for outcome in record.outcomes]
    with_errors = [record for record in records if False in record.outcomes]
    return {
        "n": float(len(records)),
        "unjudged": float(len(records) - len(scores)),
        "accuracy": _mean(scores),
        "accuracy_low": accuracy_low,
        "accuracy_high": accuracy_high,
        "drop": _mean(drops),
        "drop_low": drop_low,
        "drop_high": drop_high,
        "tool_rate": _share(records, lambda record: record.n_calls > 0),
        "restored_rate": _share(records, lambda record: record.is_restored),
        "mean_turns": _mean([len(record.turns) for record in records]),
        "n_calls": _mean([record.n_calls for record in records]),
        "error_rate": _mean([not outcome for outcome in outcomes]),
        "right_after_error": _share(with_errors, lambda record: record.is_right),
        "chain_length": _mean([len(tools) for record in records for tools in record.tools]),
        "emergent_rate": _share(records, lambda record: bool(record.emergent)),
        "required_recall": _mean([record.required_recall for record in records]),
        "crop_iou": _mean([record.crop_iou for record in records]),
        "exact_tools": _share(records, lambda record: record.has_exact_tools),
    }


def _tool_cells(records: Sequence[AnswerRecord], alone: Mapping[tuple[str, str], AnswerRecord], seed: int) -> Cells:
    """The effect of tools, over the questions that were judged both with and without them."""
    pairs = [(alone[key].score, r.score) for r in records if (key := (r.item, r.condition)) in alone]
    judged = [(before, now) for before, now in pairs if before is not None and now is not None]
    effects = [now - before for before, now in judged]
    low, high = bootstrap_interval(effects, seed=seed) if effects else (None, None)
    return {
        "alone": _mean([before for before, _ in judged]),
        "tool_gain": _mean([max(0.0, effect) for effect in effects]),
        "tool_harm": _mean([max(0.0, -effect) for effect in effects]),
        "tool_effect": _mean(effects),
        "tool_effect_low": low,
        "tool_effect_high": high,
    }


def _drops(records: Sequence[AnswerRecord], reference: Mapping[str, AnswerRecord]) -> list[float]:
    """Upright score minus score here, for every question that was judged in both conditions."""
    pairs = [(reference[record.item].score, record.score) for record in records if record.item in reference]
    return [before - now for before, now in pairs if before is not None and now is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    counted = [float(value) for value in values if value is not None]
    return sum(counted) / len(counted) if counted else None


def _share(records: Sequence[AnswerRecord], holds: Callable[[AnswerRecord], bool]) -> float | None:
    return _mean([float(holds(record)) for record in records])


def _families(of_label: Mapping[str, Sequence[AnswerRecord]]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, list[float]]] = {}
    for label, records in of_label.items():
        for record in records:
            if record.score is not None:
                scores.setdefault(record.family, {}).setdefault(label, []).append(record.score)
    if len(scores) < 2:
        return {}
    return {
        family: {label: sum(some) / len(some) for label, some in by_label.items()}
        for family, by_label in sorted(scores.items())
    }


def _count_emergent(records: Sequence[AnswerRecord]) -> dict[str, int]:
    return dict(Counter(tool for record in records for tool in sorted(record.emergent)).most_common())


def write_results(table: EvaluationTable, facts: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `results.json`, with the table and `facts` about the run, and `results.csv`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "conditions": table.rows,
        "robustness": {group: asdict(one) for group, one in table.robustness.items()},
        "families": table.families,
        "emergent_tools": table.emergent,
        **facts,
    }
    json_path, csv_path = folder / "results.json", folder / "results.csv"
    json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with csv_path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["condition", *CELLS])
        for label, cells in table.rows.items():
            writer.writerow([label, *("" if cells[cell] is None else cells[cell] for cell in CELLS)])
    return [json_path, csv_path]
