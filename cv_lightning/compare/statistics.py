"""Intervals and tests for answers that are paired by question, and for runs that differ in their seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

#: Resamples of a bootstrap; sign flips of a permutation test: the least p is then 1 / 20,001.
_N_RESAMPLES, _N_FLIPS = 2000, 20_000


def interval_of_means(of_runs: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float] | None:
    """`interval_of_questions` of values that no two runs have in common.

    One value per run gives the interval over the seeds alone; one run gives that over its values alone.
    """
    return interval_of_questions(
        [{(run, n): value for n, value in enumerate(of)} for run, of in enumerate(of_runs)], seed
    )


def interval_of_questions(of_runs: Sequence[Mapping[Any, float]], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the mean over runs of each run's mean over its questions.

    Resampled at both levels: runs with replacement, and questions; one that several runs were asked is drawn for all of
    them together, since their answers to it are not independent of each other.

    Args:
        of_runs: Question -> value, for each run.
        seed: Of the draws.

    Returns:
        (low, high); None for a single value, which says nothing about its spread, and where there is none.
    """
    runs = [of_run for of_run in of_runs if of_run]
    if sum(map(len, runs)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn_SR = rng.integers(len(runs), size=(_N_RESAMPLES, len(runs)))
    asked_by: dict[tuple[int, ...], list[Any]] = {}
    for question in dict.fromkeys(question for of_run in runs for question in of_run):
        asked_by.setdefault(tuple(r for r, of_run in enumerate(runs) if question in of_run), []).append(question)
    own_sums_SR = np.zeros(drawn_SR.shape)  # of questions that one run alone was asked: drawn anew for each place
    joint_sums_SR = np.zeros(drawn_SR.shape)  # of the others, by run
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
    """Sums, (n, R), over `n` resamples of Q rows; drawn as counts of equal rows, of which scores have few."""
    distinct_QR, counts_Q = np.unique(values_QR, axis=0, return_counts=True)
    sums: NDArray[np.float64] = rng.multinomial(len(values_QR), counts_Q / len(values_QR), size=n) @ distinct_QR
    return sums


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: are the discordant pairs split evenly?

    Twice the tail of a binomial with p = 1/2, at most 1 (Fagerland, Lydersen, Laake 2013, eq. 2).

    Args:
        only_first: Questions that only the first answered right.
        only_second: Questions that only the second answered right.
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    # Whole numbers throughout: 2**n of many questions is no float.
    return 1.0 if 2 * tail >= 2**n else 2 * tail / 2**n


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often do differences of random sign sum up as far from 0?

    Monte Carlo with 20,000 draws; the observed signs count as one of them, so that p is never 0 (Phipson and Smyth
    2010).

    Args:
        differences: One per independent unit: of a question that was asked under several conditions, their mean.
        seed: Of the draws.
    """
    moved = np.asarray([difference for difference in differences if difference], dtype=np.float64)
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    limit = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()
    n_as_far = 0
    n_rows = max(1, 2_000_000 // len(moved))
    for start in range(0, _N_FLIPS, n_rows):
        signs = rng.integers(0, 2, size=(min(n_rows, _N_FLIPS - start), len(moved)), dtype=np.int8)
        n_as_far += int((np.abs((2.0 * signs - 1.0) @ moved) >= limit).sum())
    return (n_as_far + 1) / (_N_FLIPS + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for their number by Holm's step-down method (1979); in the order they came in."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
