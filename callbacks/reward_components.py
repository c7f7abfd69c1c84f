"""Statistics of the reward terms: their spread, their share of the advantages' variance, their correlations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from callbacks.rollouts import RolloutCallback
from cv_lightning.errors import ConfigError
from cv_lightning.types import RewardBreakdown, Rollouts

#: The name under which families beyond `max_families` are counted.
OTHER = "other"

Breakdowns = Sequence[Sequence[RewardBreakdown]]


class RewardComponents(RolloutCallback):
    """Logs `components/...` of each training step with rollouts; see `component_metrics`.

    Once two families of tasks have been seen, it also logs the mean reward and accuracy of each family in the step, and
    the statistics of every term by family. In a run of several processes, the metrics are those of the first process's
    groups, because processes may have different metrics.

    Args:
        max_families: Maximum number of families with metrics of their own; later families count as "other".

    Raises:
        ConfigError: `max_families` below 1.
    """

    def __init__(self, max_families: int = 12) -> None:
        if max_families < 1:
            raise ConfigError(f"RewardComponents: max_families: expected at least 1, got {max_families}")
        self.max_families = max_families
        self._families: list[str] = []

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Measure the step."""
        metrics = component_metrics(rollouts.breakdowns)
        families = [self._named(group.sample.family) for group in rollouts.groups]
        if len(self._families) > 1:
            metrics |= family_metrics(families, rollouts.breakdowns)
        return metrics

    def state_dict(self) -> dict[str, list[str]]:
        """The families that were seen."""
        return {"families": list(self._families)}

    def load_state_dict(self, state_dict: dict[str, list[str]]) -> None:
        """Continue with the same families."""
        self._families = list(state_dict["families"])

    def _named(self, family: str) -> str:
        if family not in self._families and len(self._families) < self.max_families:
            self._families.append(family)
        return family if family in self._families else OTHER


def component_metrics(breakdowns_PG: Breakdowns) -> dict[str, float]:
    """Statistics of each weighted term over the judged trajectories.

    - `components/std/<term>`: its standard deviation over all trajectories.
    - `components/share/<term>`: the share of the variance within groups that it explains, cov(term, total) /
      var(total), pooled over the groups: with x the term, R the total and bars for means of a group,
      sum (x - x̄)(R - R̄) / sum (R - R̄)². Shares add up to 1, because R is the sum of the terms; a term with a
      negative share works against the others. Absent if no group has any spread.
    - `components/correlation/<term>`: Pearson correlation of the term with the answer being right. Absent if either
      does not vary.

    The module logs the means as `reward/<term>`.
    """
    return {f"components/{kind}/{name}": value for (kind, name), value in _statistics(breakdowns_PG).items()}


def family_metrics(families_P: Sequence[str], breakdowns_PG: Breakdowns) -> dict[str, float]:
    """Metrics of each family, over its judged trajectories.

    `components/reward/<family>` and `components/accuracy/<family>` are means; `components/<kind>/<term>/<family>` are
    the mean and the statistics of `component_metrics` for every term that is not 0 throughout the family.
    """
    metrics: dict[str, float] = {}
    for family in dict.fromkeys(families_P):
        of_family = [b for name, b in zip(families_P, breakdowns_PG, strict=True) if name == family]
        judged = [b for b in chain.from_iterable(of_family) if b.is_right is not None]
        if not judged:
            continue
        metrics[f"components/reward/{family}"] = sum(b.total for b in judged) / len(judged)
        metrics[f"components/accuracy/{family}"] = sum(b.is_right is True for b in judged) / len(judged)
        paid = {term for b in judged for term, value in b.terms.items() if value}
        means = {("mean", term): sum(b.terms[term] for b in judged) / len(judged) for term in sorted(paid)}
        for (kind, term), value in {**means, **_statistics(of_family)}.items():
            if term in paid:
                metrics[f"components/{kind}/{term}/{family}"] = value
    return metrics


def _statistics(breakdowns_PG: Breakdowns) -> dict[tuple[str, str], float]:
    """(kind, term) -> number; kinds are "std", "share" and "correlation"."""
    judged_PG = [[b for b in breakdowns if b.is_right is not None] for breakdowns in breakdowns_PG]
    flat = list(chain.from_iterable(judged_PG))
    if not flat:
        return {}
    names = list(flat[0].terms)
    terms_NK = np.array([[b.terms[name] for name in names] for b in flat])
    is_right_N = np.array([float(bool(b.is_right)) for b in flat])
    covariances, variance = _within_groups(judged_PG, names)
    numbers: dict[tuple[str, str], float] = {}
    for index, name in enumerate(names):
        values_N = terms_NK[:, index]
        numbers["std", name] = float(values_N.std())
        if variance > 0:
            numbers["share", name] = float(covariances[index] / variance)
        if np.ptp(values_N) > 0 and np.ptp(is_right_N) > 0:
            numbers["correlation", name] = float(np.corrcoef(values_N, is_right_N)[0, 1])
    return numbers


def _within_groups(
    judged_PG: Sequence[Sequence[RewardBreakdown]], names: Sequence[str]
) -> tuple[NDArray[np.float64], float]:
    """Pooled sums of products of deviations from the group's mean: each term with the total, the total with itself."""
    covariances, variance = np.zeros(len(names)), 0.0
    for breakdowns in judged_PG:
        if not breakdowns:
            continue
        terms_GK = np.array([[b.terms[name] for name in names] for b in breakdowns])
        # Equal rewards of a group deviate only by rounding, which the shares would magnify.
        if np.ptp(terms_GK.sum(1)) < 1e-9:
            continue
        deviations_GK = terms_GK - terms_GK.mean(0)
        total_G = deviations_GK.sum(1)
        covariances += deviations_GK.T @ total_G
        variance += float(total_G @ total_G)
    return covariances, variance
