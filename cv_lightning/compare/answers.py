"""Pairs the answers of two groups to the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.statistics import holm, interval_of_questions, mcnemar_exact, sign_flip_test

#: Label of the row over all shared conditions.
ALL = "all"

MCNEMAR, SIGN_FLIP = "McNemar exact", "sign flips"

#: A question asked with a seed, under any condition.
_Question = tuple[Any, str]

#: Question -> condition -> (score of the first, score of the second).
_Pairs = Mapping[_Question, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class PairedRow:
    """The second group compared with the first, over answers to the same questions, for one condition or all of them.

    Attributes:
        condition: Its label, or `ALL`.
        n: Number of pairs of answers.
        first: Mean score of the first group: averaged over a question's conditions, then questions, then seeds.
        second: Mean score of the second group.
        difference: Second minus first.
        interval: 95 % bootstrap interval of the difference, with seeds and questions resampled; None for a single pair.
        only_first: Pairs that only the first group has right (scores 1 and 0); None if there are scores in between.
        only_second: Pairs that only the second group has right.
        p: Two-sided p value.
        p_holm: P value adjusted for the number of conditions; None in the row of all conditions.
        test: `MCNEMAR`, or `SIGN_FLIP` if a question counts several times (under several conditions or with several
            seeds) or scores are between 0 and 1.
        seeds_ahead: Seeds with which the second group is ahead.
        seeds_behind: Seeds with which the second group is behind.
        n_seeds: Seeds that both groups have; 0 if answers are paired across different seeds.
    """

    condition: str
    n: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    only_first: int | None
    only_second: int | None
    p: float
    p_holm: float | None
    test: str
    seeds_ahead: int
    seeds_behind: int
    n_seeds: int


@dataclass(frozen=True)
class PairedTable:
    """Two groups on the same questions.

    Attributes:
        first: Name of the first group.
        second: Name of the second group.
        rows: One per condition, then `ALL` if there are several; empty if the groups share no question.
        n_shared: Answers to the same question under the same condition.
        n_first: All judged answers of the first group.
        n_second: All judged answers of the second group.
        n_other_truth: Answers to questions that share a name but not the right answer, so they are not the same.
    """

    first: str
    second: str
    rows: list[PairedRow] = field(default_factory=list)
    n_shared: int = 0
    n_first: int = 0
    n_second: int = 0
    n_other_truth: int = 0


def pair_groups(first: RunGroup, second: RunGroup) -> PairedTable:
    """Compare two groups on the questions that both were asked.

    Runs are paired by seed if some seed occurs exactly once in both groups; otherwise a question's score is its mean
    over a group's runs.
    """
    seeds = _shared_seeds(first, second)
    scores_first, truths_first = _scores(first, seeds)
    scores_second, truths_second = _scores(second, seeds)
    same_name = scores_first.keys() & scores_second.keys()
    shared = [key for key in scores_first if key in same_name and truths_first[key] == truths_second[key]]
    pairs: dict[_Question, dict[str, tuple[float, float]]] = {}
    for seed, item, condition in shared:
        key = (seed, item, condition)
        question = (seed, f"{item} {truths_first[key][0]}")  # another seed may have a different question of this name
        pairs.setdefault(question, {})[condition] = (scores_first[key], scores_second[key])
    conditions = list(dict.fromkeys(condition for of_question in pairs.values() for condition in of_question))
    rows = [_row(condition, _only(pairs, condition), len(seeds)) for condition in conditions]
    adjusted = holm({row.condition: row.p for row in rows})
    rows = [replace(row, p_holm=adjusted[row.condition]) for row in rows]
    if len(rows) > 1:
        rows.append(_row(ALL, pairs, len(seeds)))
    return PairedTable(
        first.name,
        second.name,
        rows,
        n_shared=len(shared),
        n_first=len(scores_first),
        n_second=len(scores_second),
        n_other_truth=len(same_name) - len(shared),
    )


def _shared_seeds(first: RunGroup, second: RunGroup) -> list[Any]:
    """Seeds that occur exactly once in both groups."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    return [seed for seed in seeds if first.seeds.count(seed) == 1 and second.seeds.count(seed) == 1]


def _scores(
    group: RunGroup, seeds: Sequence[Any]
) -> tuple[dict[tuple[Any, str, str], float], dict[tuple[Any, str, str], tuple[str, str]]]:
    """Mean score and truth by (seed, question, condition); if runs are not paired by seed, the seed is None."""
    found: dict[tuple[Any, str, str], list[float]] = {}
    truths: dict[tuple[Any, str, str], tuple[str, str]] = {}
    for run in group.runs:
        if seeds and run.seed not in seeds:
            continue
        for record in (record for record in run.answers if record.score is not None):
            key = (str(run.seed) if seeds else None, record.item, record.condition)
            found.setdefault(key, []).append(float(record.score or 0.0))
            truths[key] = record.truth, str(record.required)
    return {key: fmean(scores) for key, scores in found.items()}, truths


def _only(pairs: _Pairs, condition: str) -> _Pairs:
    asked = {question: of_question.get(condition) for question, of_question in pairs.items()}
    return {question: {condition: pair} for question, pair in asked.items() if pair is not None}


def _row(condition: str, pairs: _Pairs, n_seeds: int) -> PairedRow:
    flat = [pair for of_question in pairs.values() for pair in of_question.values()]
    firsts, seconds = (_by_seed(pairs, place) for place in (0, 1))
    moves = {
        seed: {item: seconds[seed][item] - score for item, score in of_seed.items()} for seed, of_seed in firsts.items()
    }
    # The sign of a whole question is flipped: neither its conditions nor its seeds are independent.
    units: dict[str, list[float]] = {}
    for of_seed in moves.values():
        for item, move in of_seed.items():
            units.setdefault(item, []).append(move / len(of_seed))
    is_binary = all(score in (0.0, 1.0) for pair in flat for score in pair)
    only_first, only_second = flat.count((1.0, 0.0)), flat.count((0.0, 1.0))
    is_mcnemar = is_binary and len(flat) == len(units)
    first, second = (fmean(fmean(of_seed.values()) for of_seed in scores.values()) for scores in (firsts, seconds))
    totals = [sum(of_seed.values()) for of_seed in moves.values()]
    return PairedRow(
        condition=condition,
        n=len(flat),
        first=first,
        second=second,
        difference=second - first,
        interval=interval_of_questions(list(moves.values())),
        only_first=only_first if is_binary else None,
        only_second=only_second if is_binary else None,
        p=mcnemar_exact(only_first, only_second) if is_mcnemar else sign_flip_test([sum(of) for of in units.values()]),
        p_holm=None,
        test=MCNEMAR if is_mcnemar else SIGN_FLIP,
        seeds_ahead=sum(total > 1e-9 for total in totals) if n_seeds else 0,
        seeds_behind=sum(total < -1e-9 for total in totals) if n_seeds else 0,
        n_seeds=n_seeds,
    )


def _by_seed(pairs: _Pairs, place: int) -> dict[Any, dict[str, float]]:
    """Seed -> question -> mean score over its conditions, of the first or the second of each pair."""
    scores: dict[Any, dict[str, float]] = {}
    for (seed, item), of_question in pairs.items():
        scores.setdefault(seed, {})[item] = fmean(pair[place] for pair in of_question.values())
    return scores


def tools_in_answers(group: RunGroup) -> dict[str, float]:
    """Share of the questions in which a tool had an effect, averaged over the runs; by tool, most used first."""
    if not group.is_answered:
        return {}
    shares: dict[str, float] = {}
    for run in group.runs:
        for record in run.answers:
            for tool in {tool for tools in record.tools for tool in tools}:
                shares[tool] = shares.get(tool, 0.0) + 1 / len(run.answers) / len(group.runs)
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))
