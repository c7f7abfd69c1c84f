"""The arms of an experiment, as its claims use them: a stage's answers to the test, and its curves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cv_lightning.errors import DataError
from cv_lightning.evaluation.answer_log import AnswerRecord, read_answers
from cv_lightning.reports.metrics_log import Points, read_curves

#: Folder of the answers without tools, inside the stage's folder.
WITHOUT_TOOLS = "without_tools"

#: A number for an answer; None if it is not defined for that answer.
Value = Callable[[AnswerRecord], float | None]


@dataclass(frozen=True)
class Arm:
    """A finished stage of one seed.

    Attributes:
        folder: The folder of the stage.
        answers: The answers to the test, by the question's id.
        alone: Answers of the same policy without tools; empty if it was not asked without them.
        curves: The metrics over steps.
    """

    folder: Path
    answers: Mapping[str, AnswerRecord]
    alone: Mapping[str, AnswerRecord] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)


#: Arms by seed, then by name; in place of a missing arm, a text with the reason.
Arms = Mapping[int, Mapping[str, "Arm | str"]]
#: For each seed, the numbers of its questions.
BySeed = list[list[float]]


def read_arm(folder: Path) -> Arm:
    """Read the arm from a stage's folder.

    Raises:
        DataError: The folder has no answers.
    """
    answers = _newest(folder)
    if not answers:
        raise DataError(f"{folder}: no test answers (answers_*.jsonl). Add the callback Answers to the stage.")
    return Arm(folder, answers, _newest(folder / WITHOUT_TOOLS), read_curves(folder / "metrics.csv"))


def _newest(folder: Path) -> dict[str, AnswerRecord]:
    """The answers of the policy that was tested last."""
    records = list(read_answers(folder)[0].values())
    return {record.id: record for record in records if record.policy == records[-1].policy}


def missing(arms: Arms, names: Sequence[str]) -> str:
    """The reason why the named arms cannot be compared; "" if they can."""
    reasons: dict[str, None] = {}
    for seed, of_seed in arms.items():
        for name in names:
            arm = of_seed.get(name, "the recipe has no such stage")
            if isinstance(arm, str):
                reasons[f"{name}{f' of seed {seed}' if len(arms) > 1 else ''}: {arm}"] = None
    return "; ".join(reasons)


def values(arms: Arms, name: str, families: Collection[str], value: Value) -> BySeed:
    """A number for each answer of an arm to questions of these families."""
    found = []
    for of_seed in arms.values():
        records = [record for record in _of(of_seed, name).answers.values() if record.family in families]
        found.append([number for record in records if (number := value(record)) is not None])
    return found


def differences(arms: Arms, first: str, second: str, families: Collection[str], value: Value) -> BySeed:
    """The number of `first` minus that of `second`, for each question for which both are defined."""
    found = []
    for of_seed in arms.values():
        ones, others = _of(of_seed, first).answers, _of(of_seed, second).answers
        pairs = (
            (value(ones[key]), value(others[key])) for key in ones if key in others and ones[key].family in families
        )
        found.append([one - other for one, other in pairs if one is not None and other is not None])
    return found


def _of(of_seed: Mapping[str, Arm | str], name: str) -> Arm:
    arm = of_seed[name]
    if isinstance(arm, str):
        raise ValueError(f"{name}: expected a finished arm, got none: {arm}")
    return arm


def each(arms: Arms, name: str) -> list[Arm]:
    """The arm of every seed."""
    return [_of(of_seed, name) for of_seed in arms.values()]
