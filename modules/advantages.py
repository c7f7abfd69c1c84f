"""Advantages of the rollouts of a group, and whether its rewards differ at all, as pure functions.

Axes: `_P` prompts, `_G` rollouts of a prompt. Sources: GRPO arXiv 2402.03300; Dr.GRPO 2503.20783; RLOO 2402.14740.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Advantage = Literal["grpo", "dr_grpo", "rloo"]

#: Rewards are sums of a few floats: a group whose rewards differ by less than this has no spread, only rounding.
SPREAD_TOLERANCE = 1e-6


def has_spread(rewards_PG: Tensor) -> Tensor:
    """Which groups can teach anything: True if two judged rewards of the group differ.

    Args:
        rewards_PG: Rewards [P, G], NaN if a judge failed.

    Returns:
        Bool [P].
    """
    high_P = rewards_PG.nan_to_num(nan=-torch.inf).amax(-1)
    low_P = rewards_PG.nan_to_num(nan=torch.inf).amin(-1)
    return (high_P - low_P) > SPREAD_TOLERANCE


def largest_spreads(rewards_PG: Tensor, n_kept: int) -> list[int]:
    """Sorted indices of the groups with the largest standard deviations of judged rewards; ties: earlier groups."""
    is_judged_PG = ~rewards_PG.isnan()
    count_P1 = is_judged_PG.sum(-1, keepdim=True).clamp(min=1)
    centered_PG = rewards_PG.double() - rewards_PG.double().nansum(-1, keepdim=True) / count_P1
    std_P = (torch.where(is_judged_PG, centered_PG, 0.0).square().sum(-1, keepdim=True) / count_P1).sqrt()[:, 0]
    return sorted(std_P.argsort(descending=True, stable=True)[:n_kept].tolist())


def group_advantages(rewards_PG: Tensor, kind: Advantage = "grpo", std_epsilon: float = 1e-4) -> Tensor:
    """Advantage of each rollout relative to its group.

    A NaN reward (its judge failed) gets advantage 0 and is left out of the group's mean and standard deviation. A group
    without spread, or with fewer than two judged rewards, gets exact zeros.

    Args:
        rewards_PG: Rewards [P, G], NaN if a judge failed.
        kind: See `modules.policy_gradient.PolicyGradientConfig.advantage`.
        std_epsilon: Added to the standard deviation (unbiased, over G - 1) of "grpo".

    Returns:
        Advantages [P, G] in the dtype of the rewards.

    Raises:
        ValueError: The groups hold fewer than two rollouts, so there is nothing to compare with.
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] < 2:
        raise ValueError(
            f"rewards_PG: expected [P, G] with G >= 2 rollouts per prompt, got {list(rewards_PG.shape)}. "
            "Advantages compare the rollouts of a group."
        )
    rewards = rewards_PG.double()
    is_judged_PG = ~rewards.isnan()
    count_P1 = is_judged_PG.sum(-1, keepdim=True)
    mean_P1 = rewards.nansum(-1, keepdim=True) / count_P1.clamp(min=1)
    centered_PG = torch.where(is_judged_PG, rewards - mean_P1, 0.0)
    if kind == "grpo":
        std_P1 = (centered_PG.square().sum(-1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
        advantages_PG = centered_PG / (std_P1 + std_epsilon)
    elif kind == "rloo":
        advantages_PG = centered_PG * count_P1 / (count_P1 - 1).clamp(min=1)
    else:
        advantages_PG = centered_PG
    return torch.where(has_spread(rewards)[:, None], advantages_PG, 0.0).to(rewards_PG.dtype)
