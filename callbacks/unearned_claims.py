"""Tools that a policy writes about but does not use; a reward that reads text would pay for them."""

from __future__ import annotations

from dataclasses import replace

from lightning.pytorch import LightningModule, Trainer

from callbacks.rollouts import RolloutCallback
from cv_lightning.evidence import CORE_TOOLS, gather_claims, gather_effects
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Rollouts

#: Rewards closer than this are equal.
_TOLERANCE = 1e-9


class UnearnedClaims(RolloutCallback):
    """Logs `claims/...` of each training step with rollouts; see `claim_metrics`."""

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Measure the step."""
        return claim_metrics(rollouts, getattr(pl_module, "reward_config", RewardConfig()))


def claim_metrics(rollouts: Rollouts, config: RewardConfig) -> dict[str, float]:
    """Differences between the two readings of the reward: the published one, by text, and that by effects.

    - `claims/without_effects`: share of the rollouts in which the published reading finds a turn or a crop that had no
      effect on an image.
    - `claims/paid`: share of the rollouts whose mandatory and exact terms are higher than their effects earn.
    """
    n_claimed = n_paid = 0
    for group, breakdowns in zip(rollouts.groups, rollouts.breakdowns, strict=True):
        earned = score(group, replace(config, preset="effects"))
        for trajectory, paid, by_effects in zip(group.trajectories, breakdowns, earned, strict=True):
            claimed = gather_claims(trajectory).used & CORE_TOOLS
            n_claimed += bool(claimed - gather_effects(trajectory).used)
            excess = sum(paid.terms[name] - by_effects.terms[name] for name in ("mandatory", "exact"))
            n_paid += excess > _TOLERANCE
    n = len(rollouts.trajectories)
    return {"claims/without_effects": n_claimed / n, "claims/paid": n_paid / n} if n else {}
