"""The losses per token that a policy gradient averages: clipped (PPO), CISPO and SAPO, as pure functions.

Each takes importance ratios [B, T] and advantages [B]. GSPO is the clipped loss on ratios of whole sequences.

Sources: PPO arXiv 1707.06347; clip-higher (DAPO) 2503.14476; dual clip 1912.09729; GSPO 2507.18071; CISPO (MiniMax-M1)
2506.13585; SAPO 2511.20347.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "sequence"]

#: Largest |difference of log-probabilities| that is exponentiated: one stray token must not make the loss infinite.
MAX_LOG_RATIO = 20.0


def log_ratios(logprobs_BT: Tensor, old_logprobs_BT: Tensor, is_trained_BT: Tensor, kind: Ratio = "token") -> Tensor:
    """Logarithms of the importance ratios [B, T], 0 if a token is not trained.

    "token": new minus old log-probability. "sequence": its mean over the sequence's trained tokens (GSPO, equation 7),
    the same at each of them.
    """
    difference_BT = torch.where(is_trained_BT, logprobs_BT - old_logprobs_BT, 0.0)
    if kind == "sequence":
        mean_B1 = difference_BT.sum(-1, keepdim=True) / is_trained_BT.sum(-1, keepdim=True).clamp(min=1)
        difference_BT = torch.where(is_trained_BT, mean_B1, 0.0)
    return difference_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_surrogate(
    ratio_BT: Tensor, advantages_B: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The clipped objective of PPO as a loss per token, with separate bounds and the dual clip.

    Returns:
        The loss [B, T]; True where the clip decided [B, T]; True where the dual clip decided [B, T].
    """
    advantages_B1 = advantages_B[:, None]
    free_BT = -advantages_B1 * ratio_BT
    clipped_BT = -advantages_B1 * ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    is_clipped_BT = clipped_BT > free_BT
    loss_BT = torch.maximum(free_BT, clipped_BT)
    if dual_clip is None:
        return loss_BT, is_clipped_BT, torch.zeros_like(is_clipped_BT)
    bound_BT = (-advantages_B1 * dual_clip).expand_as(loss_BT)
    is_bound_BT = (advantages_B1 < 0) & (loss_BT > bound_BT)
    return torch.where(is_bound_BT, bound_BT, loss_BT), is_clipped_BT, is_bound_BT


def cispo_surrogate(
    logprobs_BT: Tensor, ratio_BT: Tensor, advantages_B: Tensor, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO (equation 4) as a loss per token: REINFORCE weighted by the ratio, clipped at `1 + clip_high`.

    The weight has no gradient, so every token keeps its gradient, however large its ratio is. As in the paper, there
    is no lower bound.

    Returns:
        The loss [B, T]; True where the bound decided the weight [B, T].
    """
    weight_BT = ratio_BT.detach().clamp(max=1 + clip_high)
    return -weight_BT * advantages_B[:, None] * logprobs_BT, ratio_BT > 1 + clip_high


def sapo_surrogate(ratio_BT: Tensor, advantages_B: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """SAPO (equations 5 and 6) as a loss per token [B, T]: a sigmoid gate around ratio 1 in place of the clip.

    Args:
        ratio_BT: Importance ratios.
        advantages_B: Advantages; 0 counts as negative, but its loss is 0 either way.
        temperatures: How sharply the gate closes for positive and for other advantages.
    """
    positive, negative = temperatures
    advantages_B1 = advantages_B[:, None]
    temperature_B1 = torch.where(advantages_B1 > 0, positive, negative).to(ratio_BT.dtype)
    return -advantages_B1 * (temperature_B1 * (ratio_BT - 1)).sigmoid() * 4 / temperature_B1
