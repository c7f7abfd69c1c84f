"""Intervals and tests for answers that are paired by question, and for runs that differ in their seed.

Tests come from scipy, which is imported on first use because its import is slow. The bootstrap is our own: it counts a
question once even if several seeds were asked it. scipy resamples at one level only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_lightning.evaluation.intervals import CONFIDENCE

#: Number of bootstrap resamples, and of sign flips in a permutation test: the smallest p is 1 / 20,001.
_N_RESAMPLES, _N_FLIPS = 2000, 20_000

#: Number of values whose signs are flipped at once: 16 MB.
_FLIPPED_VALUES = 2_000_000


def interval_of_questions(of_runs: Sequence[Mapping[Any, float]], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the mean over runs of each run's mean over its questions.

    Both runs and questions are resampled. A question that several runs were asked is drawn jointly for all of them,
    because their answers to it are not independent.

    Args:
        of_runs: For each run, question -> value.
        seed: Seed of the resampling.

    Returns:
        (low, high); None for fewer than two values, because they say nothing about the spread.
    """
    runs = [of_run for of_run in of_runs if of_run]
    if sum(map(len, runs)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn_SR = rng.integers(len(runs), size=(_N_RESAMPLES, len(runs)))
    asked_by: dict[tuple[int, ...], list[Any]] = {}
    for question in dict.fromkeys(question for of_run in runs for question in of_run):
        asked_by.setdefault(tuple(r for r, of_run in enumerate(runs) if question in of_run), []).append(question)
    own_sums_SR = np.zeros(drawn_SR.shape)  # sums of questions that only one run was asked: drawn anew for each place
    joint_sums_SR = np.zeros(drawn_SR.shape)  # sums of the other questions, by run
    for members, questions in asked_by.items():
        values_QR = np.array([[runs[r][question] for r in members] for question in questions], dtype=np.float64)
        if len(members) > 1:
            joint_sums_SR[:, members] += _resampled_sums(values_QR, _N_RESAMPLES, rng)
        else:
            places = drawn_SR == members[0]
            own_sums_SR[places] += _resampled_sums(values_QR, int(places.sum()), rng)[:, 0]
    sums_SR = own_sums_SR + np.take_along_axis(joint_sums_SR, drawn_SR, axis=1)
    n_R = np.array([len(of_run) for of_run in runs])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((sums_SR / n_R[drawn_SR]).mean(1), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_sums(values_QR: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums (n, R) over `n` resamples of Q rows; drawn as counts of distinct rows, because scores have few of them."""
    distinct_QR, counts_Q = np.unique(values_QR, axis=0, return_counts=True)
    sums: NDArray[np.float64] = rng.multinomial(len(values_QR), counts_Q / len(values_QR), size=n) @ distinct_QR
    return sums


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: are the discordant pairs split evenly?

    The binomial test with p = 1/2 (Fagerland, Lydersen, Laake 2013, eq. 2).

    Args:
        only_first: Questions that only the first answered right.
        only_second: Questions that only the second answered right.
    """
    from scipy import stats

    n = only_first + only_second
    return float(stats.binomtest(only_first, n).pvalue) if n else 1.0


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often a sum with random signs is at least as far from 0.

    It uses all sign flips if there are fewer than 20,000 (at most 14 differences other than 0). Otherwise it uses
    20,000 random flips and the observed one, so that p is never 0 (Phipson and Smyth 2010).

    Args:
        differences: One per independent unit. For a question asked under several conditions, this is their mean.
        seed: Seed of the random flips.
    """
    moved = np.asarray([difference for difference in differences if difference], dtype=np.float64)
    if len(moved) < 2:  # scipy requires two; a single difference is equally far with either sign
        return 1.0
    from scipy import stats

    return float(
        stats.permutation_test(
            (moved,),
            lambda values, axis: np.abs(values.sum(axis)),
            permutation_type="samples",
            alternative="greater",
            vectorized=True,
            n_resamples=_N_FLIPS,
            batch=max(1, _FLIPPED_VALUES // len(moved)),
            rng=seed,
        ).pvalue
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for their number by Holm's step-down method (1979), which scipy lacks; in the given order."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
