"""Indices of robustness over the changed conditions of an evaluation.

After OCR-Robust (arXiv 2606.26041), whose abstract names Relative Corruption Retention (RCR), Worst-Case Retention
(WCR) and a composite Corruption Robustness Index (CRI). Its formulas were not available: these are our own, and may
differ. A is the upright accuracy, A_c the accuracy under a changed condition c:

    mean_drop         A - mean_c A_c
    worst_accuracy    min_c A_c
    relative_accuracy mean_c A_c / A                            after RCR
    worst_relative    min_c A_c / A                             after WCR
    robustness_index  (relative_accuracy + worst_relative) / 2  in place of CRI

The last three ignore how good the policy is upright, so read them together with A. They exceed 1 if a change helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS, RECORDED, UPRIGHT
from cv_lightning.evaluation.intervals import CONFIDENCE, RESAMPLED_VALUES, accuracy_interval

#: Index -> its meaning; A is the upright accuracy.
INDICES: dict[str, str] = {
    "mean_drop": "A minus the mean accuracy under the changed conditions",
    "worst_accuracy": "the lowest accuracy under a changed condition",
    "relative_accuracy": "mean accuracy under the changed conditions, divided by A",
    "worst_relative": "the lowest accuracy under a changed condition, divided by A",
    "robustness_index": "mean of the two above",
}

_N_RESAMPLES = 2000


@dataclass(frozen=True)
class Index:
    """An index with its 95 % interval.

    The interval of `worst_accuracy` is that of the accuracy under the worst condition. The others are percentiles of a
    bootstrap over questions; a question is drawn with all its conditions.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Robustness:
    """The indices over a group of conditions.

    Attributes:
        conditions: The changed conditions, in the order of the table.
        worst: The condition with the lowest accuracy.
        indices: Name of `INDICES` -> index, without undefined ones (if no upright answer is right).
    """

    conditions: tuple[str, ...]
    worst: str
    indices: dict[str, Index]


def robustness(of_label: Mapping[str, Sequence[AnswerRecord]], seed: int = 0) -> dict[str, Robustness]:
    """The indices over "orientations" and over "corruptions", for the groups that have judged conditions.

    Args:
        of_label: The answers under each condition.
        seed: Seed of the bootstrap.
    """
    changed = [label for label in of_label if label not in (UPRIGHT, RECORDED)]
    groups = {
        "orientations": [label for label in changed if label in ORIENTATION_CONDITIONS],
        "corruptions": [label for label in changed if label not in ORIENTATION_CONDITIONS],
    }
    found = {}
    for name, labels in groups.items():
        scores_QC = _scores([of_label.get(UPRIGHT, ()), *(of_label[label] for label in labels)])
        if labels and not np.isnan(scores_QC[:, 1:]).all(0).any():
            found[name] = _of_group(labels, scores_QC, seed)
    return found


def _scores(conditions: Sequence[Sequence[AnswerRecord]]) -> NDArray[np.float64]:
    """Scores [questions, conditions], NaN if a question was not judged under a condition."""
    row_of = {item: row for row, item in enumerate(dict.fromkeys(r.item for some in conditions for r in some))}
    scores_QC = np.full((len(row_of), len(conditions)), np.nan)
    for column, some in enumerate(conditions):
        for record in some:
            scores_QC[row_of[record.item], column] = np.nan if record.score is None else record.score
    return scores_QC


def _of_group(labels: Sequence[str], scores_QC: NDArray[np.float64], seed: int) -> Robustness:
    n = len(scores_QC)
    rng, batch = np.random.default_rng(seed), max(1, RESAMPLED_VALUES // n)
    sizes = [min(batch, _N_RESAMPLES - start) for start in range(0, _N_RESAMPLES, batch)]
    resampled_RC = np.concatenate([_accuracies(rng.multinomial(n, [1 / n] * n, size), scores_QC) for size in sizes])
    accuracy_C = _accuracies(np.ones((1, n)), scores_QC)
    values, resampled = _indices(accuracy_C), _indices(resampled_RC)
    tail = 50 * (1 - CONFIDENCE)
    indices = {
        name: Index(float(value[0]), *(float(edge) for edge in np.nanpercentile(resampled[name], [tail, 100 - tail])))
        for name, value in values.items()
        if np.isfinite(value[0])
    }
    worst = int(np.argmin(accuracy_C[0, 1:]))
    scores = scores_QC[:, 1 + worst]
    low, high = accuracy_interval(scores[~np.isnan(scores)].tolist(), seed)
    indices["worst_accuracy"] = replace(indices["worst_accuracy"], low=low, high=high)
    return Robustness(tuple(labels), labels[worst], indices)


def _accuracies(
    weights_RQ: NDArray[np.int64] | NDArray[np.float64], scores_QC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Accuracies [resamples, conditions] over the judged questions."""
    is_judged_QC = ~np.isnan(scores_QC)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights_RQ @ np.nan_to_num(scores_QC)) / (weights_RQ @ is_judged_QC.astype(float)))


def _indices(accuracy_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The indices [resamples] of accuracies whose first column is upright; undefined ones are NaN."""
    upright_R, changed_RC = accuracy_RC[:, 0], accuracy_RC[:, 1:]
    mean_R, worst_R = changed_RC.mean(1), changed_RC.min(1)
    positive_R = np.where(upright_R > 0, upright_R, np.nan)
    relative_R, worst_relative_R = mean_R / positive_R, worst_R / positive_R
    values = (upright_R - mean_R, worst_R, relative_R, worst_relative_R, (relative_R + worst_relative_R) / 2)
    return dict(zip(INDICES, values, strict=True))
