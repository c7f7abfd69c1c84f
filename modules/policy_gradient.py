"""The loss of GRPO and its relatives, its divergence and its averaging, as pure functions.

Axes: `_B` sequences, `_T` tokens. Every per-token tensor is [B, T] and aligned: position t holds the log-probability
*of* token t. Values are ignored where `is_trained_BT` is False.

Sources: GRPO arXiv 2402.03300; Dr.GRPO 2503.20783; the k3 estimator of the divergence, joschu.net/blog/kl-approx.html.
The sources of the losses per token are in `surrogates`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from modules.advantages import Advantage
from modules.sampler_correction import SamplerCorrection, check_choice, sampler_weights
from modules.surrogates import (
    MAX_LOG_RATIO,
    Ratio,
    cispo_surrogate,
    clipped_surrogate,
    log_ratios,
    sapo_surrogate,
)

Surrogate = Literal["clip", "cispo", "sapo"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]

#: Largest estimate of the divergence at a token, in nats.
MAX_KL = 10.0


@dataclass(frozen=True)
class PolicyGradientConfig:
    """Which policy gradient. The defaults are the paper's.

    Attributes:
        advantage: "grpo" (reward minus the group's mean, over its standard deviation), "dr_grpo" (minus the mean only)
            or "rloo" (minus the mean of the *other* rollouts).
        ratio: "token" (one importance ratio per token) or "sequence" (GSPO: the geometric mean over the sequence).
        surrogate: "clip" (PPO), "cispo" (the ratio, up to a bound, weighs the log-probability: no token loses its
            gradient) or "sapo" (a soft gate in place of the clip).
        clip_low: "clip": how far a ratio may fall below 1 before it is clipped. GSPO needs about 3e-4.
        clip_high: "clip" and "cispo": how far a ratio may rise above 1. GSPO needs about 4e-4, CISPO about 4.
        dual_clip: "clip": bound of the ratio if the advantage is negative; None for no bound.
        sapo_temperatures: "sapo": how sharply the gate closes for positive and for negative advantages.
        kl_coefficient: Weight of the divergence from the reference policy; 0 needs no reference.
        entropy_coefficient: Weight of the entropy bonus; 0 needs no entropies.
        aggregation: "token_mean" (every trained token counts the same), "sequence_mean" (every sequence counts the
            same) or "constant" (Dr.GRPO: sum over tokens, divided by the number of sequences times `constant_tokens`).
        constant_tokens: Tokens per sequence that the "constant" aggregation divides by.
        std_epsilon: Added to the standard deviation of "grpo".
    """

    advantage: Advantage = "grpo"
    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 10.0
    sapo_temperatures: tuple[float, float] = (1.0, 1.05)
    kl_coefficient: float = 0.001
    entropy_coefficient: float = 0.0
    aggregation: Aggregation = "token_mean"
    constant_tokens: int = 1024
    std_epsilon: float = 1e-4

    def __post_init__(self) -> None:
        for name, kind in (
            ("advantage", Advantage),
            ("ratio", Ratio),
            ("surrogate", Surrogate),
            ("aggregation", Aggregation),
        ):
            check_choice(name, getattr(self, name), kind)
        if not 0 <= self.clip_low < 1:
            raise ConfigError(f"clip_low: expected a number in [0, 1), got {self.clip_low}. The paper uses 0.2.")
        if self.clip_high < 0:
            raise ConfigError(f"clip_high: expected 0 or more, got {self.clip_high}. The paper uses 0.28.")
        if self.surrogate == "clip" and self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ConfigError(
                f"dual_clip: expected more than 1 + clip_high = {1 + self.clip_high}, got {self.dual_clip}. The paper "
                "uses 10; null switches it off."
            )
        if min(self.sapo_temperatures) <= 0:
            raise ConfigError(
                f"sapo_temperatures: expected positive numbers, got {self.sapo_temperatures}. SAPO uses 1 and 1.05."
            )
        for name in ("kl_coefficient", "entropy_coefficient"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 (off) or more, got {getattr(self, name)}")
        if self.constant_tokens < 1:
            raise ConfigError(f"constant_tokens: expected at least 1, got {self.constant_tokens}")
        if self.std_epsilon <= 0:
            raise ConfigError(f"std_epsilon: expected more than 0, got {self.std_epsilon}")


@dataclass(frozen=True)
class PolicyGradientLoss:
    """A loss and its parts.

    Attributes:
        loss: Scalar to call `backward` on.
        totals: For each metric, its sum over trained tokens and the number of these tokens, [2], detached. A sequence
            of weight n counts n times, so totals of micro-batches and ranks can be added. "kl" (with a reference)
            covers all sequences. The others cover the sequences that move the policy (see `moves_policy`): "ratio",
            "clip_fraction" (not SAPO), "dual_clip_fraction" (only "clip"), "entropy" (with entropies), and
            "sampler_..." and "trainer_logprob" (with a correction).
        gaps_M: Trainer's minus sampler's log-probability of each trained token of the sequences that move the policy;
            weights are ignored.
    """

    loss: Tensor
    totals: dict[str, Tensor]
    gaps_M: Tensor


def kl_to_reference(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, is_trained_BT: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) per token [B, T]: `exp(d) - d - 1` with d = reference - policy.

    Never negative, and clamped to [-10, 10] as in verl's "low_var_kl", which the paper used: beyond d = 2.61 or -11 a
    token has no gradient. Differentiable with respect to `logprobs_BT`; 0 if a token is not trained.
    """
    difference_BT = torch.where(is_trained_BT, reference_logprobs_BT - logprobs_BT, 0.0)
    difference_BT = difference_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (difference_BT.expm1() - difference_BT).clamp(-MAX_KL, MAX_KL)


def moves_policy(advantages_B: Tensor, config: PolicyGradientConfig) -> Tensor:
    """Which sequences have a gradient, bool [B]: those with an advantage; all if there is a KL or entropy term."""
    return (advantages_B != 0) | (config.kl_coefficient > 0 or config.entropy_coefficient > 0)


def loss_divisor(n_trained_B: Tensor, weight_B: Tensor, config: PolicyGradientConfig) -> Tensor:
    """The divisor of the loss of sequences with these numbers of trained tokens; scalar.

    Divisors are additive: each micro-batch on each rank divides its part by the sum over the whole optimizer step, so
    that the parts sum to the loss of the step. If a strategy *averages* gradients over ranks (DDP), pass the sum
    over all ranks divided by their number.
    """
    if config.aggregation == "token_mean":
        return (n_trained_B * weight_B).sum()
    if config.aggregation == "sequence_mean":
        return weight_B.sum()
    return weight_B.sum() * config.constant_tokens


def aggregate(values_BT: Tensor, is_trained_BT: Tensor, weight_B: Tensor, divisor: Tensor, kind: Aggregation) -> Tensor:
    """Weighted sum over sequences of the sum ("sequence_mean": mean) over trained tokens, over `divisor`; scalar."""
    sum_B = torch.where(is_trained_BT, values_BT, 0.0).sum(-1)
    if kind == "sequence_mean":
        sum_B = sum_B / is_trained_BT.sum(-1).clamp(min=1)
    return (sum_B * weight_B).sum() / divisor.clamp(min=1e-8)


def policy_gradient_loss(
    config: PolicyGradientConfig,
    *,
    logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    advantages_B: Tensor,
    is_trained_BT: Tensor,
    divisor: Tensor,
    weight_B: Tensor | None = None,
    reference_logprobs_BT: Tensor | None = None,
    entropy_BT: Tensor | None = None,
    old_logprobs_BT: Tensor | None = None,
    correction: SamplerCorrection | None = None,
) -> PolicyGradientLoss:
    """The part of some sequences in the loss of an optimizer step.

    Args:
        config: Which policy gradient.
        logprobs_BT: Log-probabilities under the trained policy, with gradient.
        sampler_logprobs_BT: Log-probabilities under the policy that sampled the tokens.
        advantages_B: Advantages of the sequences.
        is_trained_BT: True where the policy wrote the token.
        divisor: Scalar; `loss_divisor` of everything in the optimizer step, summed.
        weight_B: How many times each sequence occurs: computing it once with weight n equals computing it n times.
            None: once each.
        reference_logprobs_BT: Log-probabilities under the reference policy; needed if `kl_coefficient` > 0, else only
            measured.
        entropy_BT: Entropies of the policy's next-token distributions; needed if `entropy_coefficient` > 0, else only
            measured.
        old_logprobs_BT: With a correction, log-probabilities under the trained policy before the first step on these
            sequences; None if this is the first step. Without a correction, `sampler_logprobs_BT` are used instead.
        correction: How tokens are weighted for a sampler that differs from the trainer; None trusts the sampler.

    Raises:
        ValueError: A tensor that the configuration needs is missing, or shapes do not agree.
    """
    _check_shapes(logprobs_BT, sampler_logprobs_BT, old_logprobs_BT, reference_logprobs_BT, is_trained_BT, entropy_BT)
    weight_B = torch.ones_like(advantages_B) if weight_B is None else weight_B.to(advantages_B.dtype)
    is_trained_BT = is_trained_BT.bool()
    if correction is None:
        old_logprobs_BT = sampler_logprobs_BT
    elif old_logprobs_BT is None:
        old_logprobs_BT = logprobs_BT.detach()
    loss_BT, measured = _surrogate(config, logprobs_BT, old_logprobs_BT, advantages_B, is_trained_BT)
    if correction is not None:
        loss_BT, of_sampler = _corrected(loss_BT, old_logprobs_BT, sampler_logprobs_BT, is_trained_BT, correction)
        measured |= of_sampler
    loss_BT, regularizers = _regularized(config, loss_BT, logprobs_BT, reference_logprobs_BT, entropy_BT, is_trained_BT)
    measured |= regularizers
    moving_B = weight_B * moves_policy(advantages_B, config)
    totals = {
        name: _total(value_BT.detach(), is_trained_BT, weight_B if name == "kl" else moving_B)
        for name, value_BT in measured.items()
    }
    gaps_M = (logprobs_BT - sampler_logprobs_BT).detach()[is_trained_BT & (moving_B > 0)[:, None]]
    return PolicyGradientLoss(aggregate(loss_BT, is_trained_BT, weight_B, divisor, config.aggregation), totals, gaps_M)


def _corrected(
    loss_BT: Tensor,
    old_logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    is_trained_BT: Tensor,
    correction: SamplerCorrection,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss per token [B, T] weighted for the sampler, and metrics of the weights."""
    weights_BT, is_beyond_BT = sampler_weights(old_logprobs_BT, sampler_logprobs_BT, is_trained_BT, correction)
    return loss_BT * weights_BT, {
        "sampler_weight": weights_BT,
        "sampler_beyond": is_beyond_BT.float(),
        "sampler_logprob": sampler_logprobs_BT.nan_to_num(nan=0.0),
        "trainer_logprob": old_logprobs_BT,
    }


def _regularized(
    config: PolicyGradientConfig,
    loss_BT: Tensor,
    logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor | None,
    entropy_BT: Tensor | None,
    is_trained_BT: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss per token with its KL and entropy terms, and the divergence and the entropy if they can be measured."""
    measured: dict[str, Tensor] = {}
    if reference_logprobs_BT is not None:
        measured["kl"] = kl_to_reference(logprobs_BT, reference_logprobs_BT, is_trained_BT)
        loss_BT = loss_BT + config.kl_coefficient * measured["kl"]
    elif config.kl_coefficient > 0:
        raise ValueError(
            f"reference_logprobs_BT: expected a tensor for kl_coefficient={config.kl_coefficient}, got None. "
            "A coefficient of 0 needs none."
        )
    if entropy_BT is not None:
        measured["entropy"] = torch.where(is_trained_BT, entropy_BT, 0.0)
        loss_BT = loss_BT - config.entropy_coefficient * measured["entropy"]
    elif config.entropy_coefficient > 0:
        raise ValueError(
            f"entropy_BT: expected a tensor for entropy_coefficient={config.entropy_coefficient}, got None. "
            "A coefficient of 0 needs none."
        )
    return loss_BT, measured


def _surrogate(
    config: PolicyGradientConfig,
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    is_trained_BT: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss per token [B, T] of the chosen surrogate, and its metrics."""
    ratio_BT = log_ratios(logprobs_BT, old_logprobs_BT, is_trained_BT, config.ratio).exp()
    if config.surrogate == "cispo":
        loss_BT, is_clipped_BT = cispo_surrogate(logprobs_BT, ratio_BT, advantages_B, config.clip_high)
        return loss_BT, {"clip_fraction": is_clipped_BT.float(), "ratio": ratio_BT}
    if config.surrogate == "sapo":
        return sapo_surrogate(ratio_BT, advantages_B, config.sapo_temperatures), {"ratio": ratio_BT}
    loss_BT, is_clipped_BT, is_bound_BT = clipped_surrogate(
        ratio_BT, advantages_B, config.clip_low, config.clip_high, config.dual_clip
    )
    return loss_BT, {
        "clip_fraction": is_clipped_BT.float(),
        "dual_clip_fraction": is_bound_BT.float(),
        "ratio": ratio_BT,
    }


def _total(values_BT: Tensor, is_trained_BT: Tensor, weight_B: Tensor) -> Tensor:
    sum_B, n_B = torch.where(is_trained_BT, values_BT, 0.0).sum(-1), is_trained_BT.sum(-1)
    return torch.stack([(sum_B * weight_B).sum(), (n_B * weight_B).sum()])


def _check_shapes(logprobs_BT: Tensor, *others: Tensor | None) -> None:
    for other in others:
        if other is not None and other.shape != logprobs_BT.shape:
            raise ValueError(f"per-token tensors: expected shape {tuple(logprobs_BT.shape)}, got {tuple(other.shape)}")
