"""Random tensors of a policy-gradient loss, and its gradient, for the tests of the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.policy_gradient import PolicyGradientConfig, loss_divisor, policy_gradient_loss


def table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def batch(n_sequences: int = 4, n_tokens: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float) -> Tensor:
        return torch.randn(n_sequences, n_tokens, generator=generator, dtype=torch.float64) * scale

    old = -draw(1.0).abs() - 0.1
    is_trained = torch.rand(n_sequences, n_tokens, generator=generator) < 0.7
    is_trained[:, 0] = True
    return {
        "logprobs_BT": old + draw(0.4),
        "sampler_logprobs_BT": old,
        "reference_logprobs_BT": old + draw(0.2),
        "advantages_B": torch.randn(n_sequences, generator=generator, dtype=torch.float64),
        "is_trained_BT": is_trained,
        "weight_B": torch.ones(n_sequences, dtype=torch.float64),
    }


def part_of(tensors: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def divisor_of(tensors: dict[str, Tensor], config: PolicyGradientConfig) -> Tensor:
    return loss_divisor(tensors["is_trained_BT"].sum(-1), tensors["weight_B"], config)


def loss_and_gradient(
    config: PolicyGradientConfig, tensors: dict[str, Tensor], divisor: Tensor | None = None, **others: Any
) -> tuple[Tensor, Tensor]:
    divisor = divisor_of(tensors, config) if divisor is None else divisor
    logprobs = tensors["logprobs_BT"].clone().requires_grad_()
    result = policy_gradient_loss(config, **{**tensors, "logprobs_BT": logprobs}, divisor=divisor, **others)
    result.loss.backward()
    assert logprobs.grad is not None
    return result.loss.detach(), logprobs.grad
