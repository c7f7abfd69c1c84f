"""Which terms of the reward teach: their spread, their share of the advantages' variance, and what they go with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from callbacks.rollouts import RolloutCallback
from cv_lightning.types import Group, RewardBreakdown


class RewardComponents(RolloutCallback):
    """Logs `components/...` of each training step with rollouts; see `component_metrics`.

    Once tasks of two families were seen, also the mean reward and accuracy of each family of the step. In a run of
    several processes the numbers are those of the first one's groups: which of them exist may differ between processes.
    """

    def __init__(self) -> None:
        self._families: set[str] = set()

    def on_rollout(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        groups: Sequence[Group],
        breakdowns: Sequence[Sequence[RewardBreakdown]],
    ) -> None:
        """Log the step."""
        metrics = component_metrics(breakdowns)
        families = [group.sample.family for group in groups]
        self._families.update(families)
        if len(self._families) > 1:
            metrics |= family_metrics(families, breakdowns)
        pl_module.log_dict(metrics)


def component_metrics(breakdowns_PG: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
    """Numbers about each weighted term over the judged trajectories.

    - `components/std/<term>`: its standard deviation over all trajectories.
    - `components/share/<term>`: its share of the variance within groups, cov(term, total) / var(total), pooled over the
      groups. Shares add up to 1; a negative one works against the rest. Absent where no group has any spread.
    - `components/correlation/<term>`: Pearson correlation of the term with the answer being right. Absent where either
      of them does not vary.

    The means are the module's `reward/<term>`.
    """
    judged_PG = [[b for b in breakdowns if b.is_right is not None] for breakdowns in breakdowns_PG]
    flat = list(chain.from_iterable(judged_PG))
    if not flat:
        return {}
    names = list(flat[0].terms)
    is_right = np.array([float(bool(b.is_right)) for b in flat])
    covariances, variance = _within_groups(judged_PG, names)
    metrics: dict[str, float] = {}
    for index, name in enumerate(names):
        values = np.array([b.terms[name] for b in flat])
        metrics[f"components/std/{name}"] = float(values.std())
        if variance > 0:
            metrics[f"components/share/{name}"] = float(covariances[index] / variance)
        if np.ptp(values) > 0 and np.ptp(is_right) > 0:
            metrics[f"components/correlation/{name}"] = float(np.corrcoef(values, is_right)[0, 1])
    return metrics


def family_metrics(families_P: Sequence[str], breakdowns_PG: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
    """`components/reward/<family>` and `components/accuracy/<family>`: means over the judged trajectories."""
    judged: dict[str, list[RewardBreakdown]] = {}
    for family, breakdowns in zip(families_P, breakdowns_PG, strict=True):
        judged.setdefault(family, []).extend(b for b in breakdowns if b.is_right is not None)
    metrics: dict[str, float] = {}
    for family, of_family in judged.items():
        if of_family:
            metrics[f"components/reward/{family}"] = sum(b.total for b in of_family) / len(of_family)
            metrics[f"components/accuracy/{family}"] = sum(b.is_right is True for b in of_family) / len(of_family)
    return metrics


def _within_groups(
    judged_PG: Sequence[Sequence[RewardBreakdown]], names: Sequence[str]
) -> tuple[NDArray[np.float64], float]:
    """Pooled sums of products of deviations from the group's mean: each term with the total, the total with itself."""
    covariances, variance = np.zeros(len(names)), 0.0
    for breakdowns in judged_PG:
        if not breakdowns:
            continue
        terms_GK = np.array([[b.terms[name] for name in names] for b in breakdowns])
        # A group of equal rewards has deviations of rounding size only; they would be blown up to shares.
        if np.ptp(terms_GK.sum(1)) < 1e-9:
            continue
        deviations_GK = terms_GK - terms_GK.mean(0)
        total_G = deviations_GK.sum(1)
        covariances += deviations_GK.T @ total_G
        variance += float(total_G @ total_G)
    return covariances, variance
