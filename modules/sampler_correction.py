"""Truncated importance sampling: corrects the loss for a sampler that differs slightly from the trained policy.

An engine or a replica in another precision samples from a distribution near the trainer's. The loss then uses the
trainer's own log-probabilities as the old ones, and weights each token by the ratio of trainer to sampler probability.

Sources: truncated importance sampling (TIS), fengyao.notion.site/off-policy-rl; masking and sequence level (MIS),
yingru.notion.site/When-Speed-Kills-Stability; both as in TRL's `vllm_importance_sampling_mode`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from modules.surrogates import MAX_LOG_RATIO

Level = Literal["token", "sequence"]
Beyond = Literal["truncate", "mask"]


@dataclass(frozen=True)
class SamplerCorrection:
    """How tokens of another sampler are weighted.

    Attributes:
        level: "token" (one ratio per token: biased, low variance) or "sequence" (their product: unbiased, high variance
            in long sequences).
        beyond: A ratio beyond a bound is set to that bound ("truncate"), or its tokens get weight 0 ("mask").
        max_ratio: Upper bound; null for none.
        min_ratio: Lower bound; null for none.
    """

    level: Level = "token"
    beyond: Beyond = "truncate"
    max_ratio: float | None = 2.0
    min_ratio: float | None = None

    def __post_init__(self) -> None:
        check_choice("sampler_correction.level", self.level, Level)
        check_choice("sampler_correction.beyond", self.beyond, Beyond)
        low, high = self.min_ratio, self.max_ratio
        if low is None and high is None:
            raise ConfigError("sampler_correction: expected max_ratio or min_ratio, got null for both")
        if (low is not None and not 0 <= low < 1) or (high is not None and not high > 1):
            raise ConfigError(
                "sampler_correction: expected min_ratio in [0, 1) and max_ratio above 1, or null, got "
                f"min_ratio={low}, max_ratio={high}. Equal distributions have the ratio 1."
            )


def check_choice(name: str, value: str, kind: Any) -> None:
    """Raise `ConfigError` unless a value belongs to a `Literal`."""
    choices: tuple[str, ...] = get_args(kind)
    if value not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def sampler_weights(
    trainer_logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, is_trained_BT: Tensor, config: SamplerCorrection
) -> tuple[Tensor, Tensor]:
    """The weight of each token's loss, and whether a bound decided it; neither has a gradient.

    Args:
        trainer_logprobs_BT: Log-probabilities under the trained policy, before its first step.
        sampler_logprobs_BT: Log-probabilities under the sampling policy. NaN (not given) counts as equal.
        is_trained_BT: True if the policy wrote the token.
        config: Which correction.

    Returns:
        Weights [B, T], 1 if a token is not trained; True where a bound decided [B, T].
    """
    difference_BT = (trainer_logprobs_BT - sampler_logprobs_BT).detach()
    difference_BT = torch.where(is_trained_BT, difference_BT, 0.0).nan_to_num(nan=0.0)
    if config.level == "sequence":
        sum_B1 = difference_BT.sum(-1, keepdim=True)
        difference_BT = torch.where(is_trained_BT, sum_B1, 0.0)
    ratio_BT = difference_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    held_BT = ratio_BT.clamp(config.min_ratio, config.max_ratio)
    is_beyond_BT = held_BT != ratio_BT
    return (held_BT if config.beyond == "truncate" else ratio_BT.masked_fill(is_beyond_BT, 0.0)), is_beyond_BT


def gap_metrics(gaps_M: Tensor) -> dict[str, Tensor]:
    """Metrics of the difference between trainer and sampler; empty if there are no tokens.

    They are the maximum, the mean and the 99.9th percentile (nearest rank) of the absolute gap, and the k3 estimate of
    KL(sampler || trainer). The tokens come from the sampler, so k3 is the mean of exp(gap) - gap - 1.

    Args:
        gaps_M: Trainer's minus sampler's log-probability of M tokens, in nats.
    """
    if not len(gaps_M):
        return {}
    sizes_M = gaps_M.abs()
    log_ratios_M = gaps_M.double().clamp(max=MAX_LOG_RATIO)  # float32 would round 1e-6 away
    return {
        "rl/logprob_gap": sizes_M.max(),
        "rl/logprob_gap_mean": sizes_M.mean(),
        "rl/logprob_gap_p999": sizes_M.kthvalue(math.ceil(0.999 * len(sizes_M))).values,
        "rl/logprob_gap_k3": (log_ratios_M.expm1() - log_ratios_M).mean().float(),
    }
