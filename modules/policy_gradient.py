"""Advantages, ratios, clipping, divergence and averaging: the arithmetic of GRPO and its relatives, as pure functions.

Axes: `_P` prompts, `_G` rollouts of a prompt, `_B` sequences, `_T` tokens. Every per-token tensor is [B, T] and
aligned: position t holds the log-probability *of* token t. Values where `is_trained_BT` is False are never read,
whatever they are.

Sources: GRPO arXiv 2402.03300; Dr.GRPO 2503.20783; RLOO 2402.14740; GSPO 2507.18071; clip-higher (DAPO) 2503.14476;
dual clip 1912.09729; the k3 estimator of the divergence, joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cv_lightning.errors import ConfigError

Advantage = Literal["grpo", "dr_grpo", "rloo"]
Ratio = Literal["token", "sequence"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]

#: Rewards are sums of a few floats: a group whose rewards differ by less than this has no spread, only rounding.
SPREAD_TOLERANCE = 1e-6

#: Largest |difference of log-probabilities| that is exponentiated: one stray token must not make the loss infinite.
_MAX_LOG_RATIO = 20.0

#: Largest estimate of the divergence at a token, in nats.
MAX_KL = 10.0


@dataclass(frozen=True)
class PolicyGradientConfig:
    """Which policy gradient. The defaults are the paper's.

    Attributes:
        advantage: "grpo" (reward minus the group's mean, over its standard deviation), "dr_grpo" (minus the mean only)
            or "rloo" (minus the mean of the *other* rollouts).
        ratio: "token" (one importance ratio per token) or "sequence" (GSPO: the geometric mean over the sequence).
        clip_low: How far a ratio may fall below 1 before it is clipped. GSPO wants about 3e-4.
        clip_high: How far it may rise above 1. GSPO wants about 4e-4.
        dual_clip: Bound of the ratio if the advantage is negative; None for no bound.
        kl_coefficient: Weight of the divergence from the reference policy; 0 needs no reference.
        entropy_coefficient: Weight of the entropy bonus; 0 needs no entropies.
        aggregation: "token_mean" (every trained token counts the same), "sequence_mean" (every sequence counts the
            same) or "constant" (Dr.GRPO: sum over tokens by sequences times `constant_tokens`).
        constant_tokens: Tokens per sequence that the "constant" aggregation divides by.
        std_epsilon: Added to the standard deviation of "grpo".
    """

    advantage: Advantage = "grpo"
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 10.0
    kl_coefficient: float = 0.001
    entropy_coefficient: float = 0.0
    aggregation: Aggregation = "token_mean"
    constant_tokens: int = 1024
    std_epsilon: float = 1e-4

    def __post_init__(self) -> None:
        for name, kind in (("advantage", Advantage), ("ratio", Ratio), ("aggregation", Aggregation)):
            choices: tuple[str, ...] = get_args(kind)
            if getattr(self, name) not in choices:
                raise ConfigError(f"Expected {name} to be one of {', '.join(choices)} but got {getattr(self, name)!r}")
        if not 0 <= self.clip_low < 1:
            raise ConfigError(f"Expected clip_low in [0, 1) but got clip_low={self.clip_low}; the paper uses 0.2")
        if self.clip_high < 0:
            raise ConfigError(f"Expected clip_high >= 0 but got clip_high={self.clip_high}; the paper uses 0.28")
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ConfigError(
                f"Expected dual_clip above 1 + clip_high = {1 + self.clip_high} but got dual_clip={self.dual_clip}; "
                "the paper uses 10, null switches it off"
            )
        for name in ("kl_coefficient", "entropy_coefficient"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Expected {name} >= 0 but got {name}={getattr(self, name)}; 0 switches it off")
        if self.constant_tokens < 1:
            raise ConfigError(f"Expected constant_tokens >= 1 but got constant_tokens={self.constant_tokens}")
        if self.std_epsilon <= 0:
            raise ConfigError(f"Expected std_epsilon > 0 but got std_epsilon={self.std_epsilon}")


@dataclass(frozen=True)
class PolicyGradientLoss:
    """A loss and its parts.

    Attributes:
        loss: Scalar to call `backward` on.
        totals: Of each metric its sum over trained tokens and their number, [2], detached. A sequence of weight n
            counts n times, so totals of micro-batches and ranks add up. "clip_fraction", "dual_clip_fraction", "ratio"
            and, with entropies, "entropy" are over the sequences that move the policy (see `moves_policy`); with a
            reference, "kl" is over all.
        gaps_M: |new - old log-probability| of each trained token of the sequences that move the policy, once each.
    """

    loss: Tensor
    totals: dict[str, Tensor]
    gaps_M: Tensor


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


def group_advantages(rewards_PG: Tensor, kind: Advantage = "grpo", std_epsilon: float = 1e-4) -> Tensor:
    """Advantages of each rollout relative to its group.

    A NaN reward (its judge failed) gets advantage 0 and is left out of the group's mean and standard deviation. A group
    without spread, or with fewer than two judged rewards, gets exact zeros.

    Args:
        rewards_PG: Rewards [P, G], NaN if a judge failed.
        kind: See `PolicyGradientConfig.advantage`.
        std_epsilon: Added to the standard deviation (unbiased, over G - 1) of "grpo".

    Returns:
        Advantages [P, G] in the dtype of the rewards.

    Raises:
        ValueError: The groups hold fewer than two rollouts: there is nothing to be relative to.
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] < 2:
        raise ValueError(
            f"Expected rewards [P, G] with G >= 2 rollouts per prompt but got shape {tuple(rewards_PG.shape)}; "
            "a group of one has no mean to be better than"
        )
    rewards = rewards_PG.double()
    is_judged_PG = ~rewards.isnan()
    count_P1 = is_judged_PG.sum(-1, keepdim=True)
    mean_P1 = rewards.nansum(-1, keepdim=True) / count_P1.clamp(min=1)
    centred_PG = torch.where(is_judged_PG, rewards - mean_P1, 0.0)
    if kind == "grpo":
        std_P1 = (centred_PG.square().sum(-1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
        advantages_PG = centred_PG / (std_P1 + std_epsilon)
    elif kind == "rloo":
        advantages_PG = centred_PG * count_P1 / (count_P1 - 1).clamp(min=1)
    else:
        advantages_PG = centred_PG
    return torch.where(has_spread(rewards)[:, None], advantages_PG, 0.0).to(rewards_PG.dtype)


def log_ratios(logprobs_BT: Tensor, old_logprobs_BT: Tensor, is_trained_BT: Tensor, kind: Ratio = "token") -> Tensor:
    """Logarithms of the importance ratios [B, T], 0 if a token is not trained.

    "token": new minus old log-probability. "sequence": its mean over the sequence's trained tokens (GSPO, equation 7),
    the same at each of them.
    """
    difference_BT = torch.where(is_trained_BT, logprobs_BT - old_logprobs_BT, 0.0)
    if kind == "sequence":
        mean_B1 = difference_BT.sum(-1, keepdim=True) / is_trained_BT.sum(-1, keepdim=True).clamp(min=1)
        difference_BT = torch.where(is_trained_BT, mean_B1, 0.0)
    return difference_BT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


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


def kl_to_reference(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, is_trained_BT: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) per token [B, T]: `exp(d) - d - 1` with d = reference - policy.

    Never negative, and clamped to [-10, 10] as in verl's "low_var_kl", with which the paper's model was trained: beyond
    d = 2.61 or -11 a token has no gradient. Differentiable with respect to `logprobs_BT`; 0 if a token is not trained.
    """
    difference_BT = torch.where(is_trained_BT, reference_logprobs_BT - logprobs_BT, 0.0)
    difference_BT = difference_BT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return (difference_BT.expm1() - difference_BT).clamp(-MAX_KL, MAX_KL)


def moves_policy(advantages_B: Tensor, config: PolicyGradientConfig) -> Tensor:
    """Which sequences have a gradient, bool [B]: those with an advantage, or all if KL or entropy are paid."""
    return (advantages_B != 0) | (config.kl_coefficient > 0 or config.entropy_coefficient > 0)


def loss_divisor(is_trained_BT: Tensor, weight_B: Tensor, config: PolicyGradientConfig) -> Tensor:
    """The divisor of the loss of these sequences; scalar.

    Divisors add: a minibatch, an accumulation step or a rank divides its part by the sum over the whole optimizer step,
    so that the parts sum to the loss of the whole. If a strategy *averages* gradients over ranks (DDP), pass the sum
    over all ranks divided by their number.
    """
    if config.aggregation == "token_mean":
        return (is_trained_BT.sum(-1) * weight_B).sum()
    if config.aggregation == "sequence_mean":
        return weight_B.sum()
    return weight_B.sum() * config.constant_tokens


def aggregate(values_BT: Tensor, is_trained_BT: Tensor, weight_B: Tensor, divisor: Tensor, kind: Aggregation) -> Tensor:
    """Weighted sum over sequences of the sum (or "sequence_mean") over trained tokens, by `divisor`; scalar."""
    sum_B = torch.where(is_trained_BT, values_BT, 0.0).sum(-1)
    if kind == "sequence_mean":
        sum_B = sum_B / is_trained_BT.sum(-1).clamp(min=1)
    return (sum_B * weight_B).sum() / divisor.clamp(min=1e-8)


def policy_gradient_loss(
    config: PolicyGradientConfig,
    *,
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    is_trained_BT: Tensor,
    divisor: Tensor,
    weight_B: Tensor | None = None,
    reference_logprobs_BT: Tensor | None = None,
    entropy_BT: Tensor | None = None,
) -> PolicyGradientLoss:
    """The loss of some sequences as their part of an optimizer step's loss.

    Args:
        config: Which policy gradient.
        logprobs_BT: Log-probabilities under the policy that is trained, with gradient.
        old_logprobs_BT: Under the policy that sampled the tokens.
        advantages_B: Advantages of the sequences.
        is_trained_BT: True where the policy wrote the token.
        divisor: Scalar; `loss_divisor` of everything in the optimizer step, summed.
        weight_B: How many times each sequence occurs: computing it once with weight n equals computing it n times. None
            for ones.
        reference_logprobs_BT: Under the reference policy; needed if `kl_coefficient` > 0, else only measured.
        entropy_BT: Entropies of the policy's next-token distributions; needed if `entropy_coefficient` > 0, else only
            measured.

    Raises:
        ValueError: A tensor that the configuration needs is missing, or shapes do not agree.
    """
    _check_shapes(logprobs_BT, old_logprobs_BT, reference_logprobs_BT, is_trained_BT, entropy_BT)
    weight_B = torch.ones_like(advantages_B) if weight_B is None else weight_B.to(advantages_B.dtype)
    is_trained_BT = is_trained_BT.bool()
    ratio_BT = log_ratios(logprobs_BT, old_logprobs_BT, is_trained_BT, config.ratio).exp()
    loss_BT, is_clipped_BT, is_bound_BT = clipped_surrogate(
        ratio_BT, advantages_B, config.clip_low, config.clip_high, config.dual_clip
    )
    measured = {"clip_fraction": is_clipped_BT.float(), "dual_clip_fraction": is_bound_BT.float(), "ratio": ratio_BT}
    if reference_logprobs_BT is not None:
        measured["kl"] = kl_to_reference(logprobs_BT, reference_logprobs_BT, is_trained_BT)
        loss_BT = loss_BT + config.kl_coefficient * measured["kl"]
    elif config.kl_coefficient > 0:
        raise ValueError(
            f"Expected reference_logprobs_BT because kl_coefficient={config.kl_coefficient}; 0 needs no reference"
        )
    if entropy_BT is not None:
        measured["entropy"] = torch.where(is_trained_BT, entropy_BT, 0.0)
        loss_BT = loss_BT - config.entropy_coefficient * measured["entropy"]
    elif config.entropy_coefficient > 0:
        raise ValueError(f"Expected entropy_BT because entropy_coefficient={config.entropy_coefficient}; 0 needs none")
    moving_B = weight_B * moves_policy(advantages_B, config)
    totals = {
        name: _total(value_BT.detach(), is_trained_BT, weight_B if name == "kl" else moving_B)
        for name, value_BT in measured.items()
    }
    gaps_M = (logprobs_BT - old_logprobs_BT).detach().abs()[is_trained_BT & (moving_B > 0)[:, None]]
    return PolicyGradientLoss(aggregate(loss_BT, is_trained_BT, weight_B, divisor, config.aggregation), totals, gaps_M)


def _total(values_BT: Tensor, is_trained_BT: Tensor, weight_B: Tensor) -> Tensor:
    sum_B, n_B = torch.where(is_trained_BT, values_BT, 0.0).sum(-1), is_trained_BT.sum(-1)
    return torch.stack([(sum_B * weight_B).sum(), (n_B * weight_B).sum()])


def _check_shapes(logprobs_BT: Tensor, *others: Tensor | None) -> None:
    for other in others:
        if other is not None and other.shape != logprobs_BT.shape:
            raise ValueError(
                f"Expected every per-token tensor to have shape {tuple(logprobs_BT.shape)} but got {tuple(other.shape)}"
            )
