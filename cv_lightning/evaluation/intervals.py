"""95 % intervals of means over questions, from scipy (imported on first use because its import is slow)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95

#: Number of values that the bootstrap draws at once: 64 MB with their indices.
RESAMPLED_VALUES = 1 << 22


def bootstrap_interval(values: Sequence[float], seed: int = 0, n_resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`; if all values are equal, both ends are that value.

    Raises:
        ValueError: There are no values.
    """
    if not len(values):
        raise ValueError("values: expected at least one, got none.")
    if min(values) == max(values):
        return values[0], values[0]
    from scipy import stats

    data = (np.asarray(values, dtype=np.float64),)
    interval = stats.bootstrap(
        data,
        np.mean,
        n_resamples=n_resamples,
        batch=max(1, RESAMPLED_VALUES // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def accuracy_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of scores in [0, 1].

    If all answers are right, or none is, every resample is the same, and the interval would claim certainty. In that
    case it is the exact binomial interval (Clopper and Pearson, Biometrika 26, 1934).
    """
    if 0 < sum(scores) < len(scores):
        return bootstrap_interval(scores, seed)
    from scipy import stats

    exact = stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(CONFIDENCE, method="exact")
    return float(exact.low), float(exact.high)


def nested_interval(
    by_seed: Sequence[Sequence[float]], *, is_difference: bool = False, n_resamples: int = 2000
) -> tuple[float, float, float]:
    """The mean over seeds and questions, and its interval; seeds are resampled, then the questions within each seed.

    Args:
        by_seed: One value per question, for each seed; seeds without values do not count.
        is_difference: Whether the values are differences. If not, they are shares of answers: if all or none are right,
            the interval is the exact one of `accuracy_interval`, because no resample would differ.
        n_resamples: Number of bootstrap resamples.

    Returns:
        Mean, lower end and upper end. Every seed has the same weight.

    Raises:
        ValueError: There are no values.
    """
    seeds = [np.asarray(values, dtype=np.float64) for values in by_seed if len(values)]
    if not seeds:
        raise ValueError("by_seed: expected at least one value, got none.")
    mean = float(np.mean([values.mean() for values in seeds]))
    pooled = np.concatenate(seeds)
    if np.min(pooled) == np.max(pooled):
        low, high = (mean, mean) if is_difference else accuracy_interval([float(value) for value in pooled])
        return mean, low, high
    rng = np.random.default_rng(0)
    means = np.empty((n_resamples, len(seeds)))
    chosen = rng.integers(len(seeds), size=means.shape)
    for number, values in enumerate(seeds):
        places = np.nonzero(chosen == number)
        means[places] = [rng.choice(values, len(values)).mean() for _ in range(len(places[0]))]
    low, high = np.percentile(means.mean(1), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return mean, float(low), float(high)
