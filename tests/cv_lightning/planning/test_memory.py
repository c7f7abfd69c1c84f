"""Bytes that a plan counts, against those that torch holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from cv_lightning.planning.memory import activation_bytes, logit_bytes, memory
from cv_lightning.planning.model_size import ModelSize, measure
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.policy import Policy
from modules.policy.precision import hold_masters
from tests.cv_lightning.planning.works import workload_of
from tests.modules.helpers import FAMILIES, LORA, sampled_conversations, small_policy

#: How far what is kept for the backward pass may be from what is counted, as a factor.
ACTIVATIONS_WITHIN = 1.3


def size_of(policy: Policy, optimizer_bytes: int = 0) -> ModelSize:
    bytes_of = torch.finfo(next(policy.model.parameters()).dtype).bits // 8
    return measure(policy.model, policy.causal.config, bytes_of, policy.is_lora, optimizer_bytes)


def storage_bytes(tensors: Any) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def stepped(policy: Policy, config: OptimizerConfig) -> Any:
    """The optimizer after a real step on sampled conversations."""
    optimizer, _ = make_optimizer(policy, config, 1)
    with policy.rounded():
        (-policy.token_logprobs(policy.collate(sampled_conversations(policy)))[0].sum()).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float32", {}),
        ("bfloat16", {}),
        ("bfloat16", {"frozen": ["vision", "projector"]}),
        ("bfloat16", {"lora": LORA}),
    ],
)
def test_states_are_those_that_torch_holds_after_a_step(
    dtype: str, changes: dict[str, Any], optimizer: str, planned: Any
) -> None:
    policy = small_policy(dtype=dtype, **changes)
    policy.prepare_training()
    stepped_optimizer = stepped(policy, OptimizerConfig(optimizer, lr=1e-3))
    parts = planned({"dtype": dtype, **changes}, optimizer)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    held = [p for p in policy.model.parameters() if not p.requires_grad]
    rounded = 2 * sum(p.numel() for p in trained) if dtype == "bfloat16" else 0
    moments = [
        value
        for part in getattr(stepped_optimizer, "parts", [stepped_optimizer])
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    assert parts["weights"] == pytest.approx(storage_bytes(held) + rounded, rel=0.05)
    assert parts["masters"] == pytest.approx(storage_bytes(trained), rel=0.05)
    assert parts["gradients"] == pytest.approx(storage_bytes(p.grad for p in trained if p.grad is not None), rel=0.05)
    assert parts["optimizer states"] == pytest.approx(storage_bytes(moments), rel=0.05)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_that_torch_keeps(family: str, dtype: str, gradient_checkpointing: bool) -> None:
    policy = small_policy(family, dtype=dtype, gradient_checkpointing=gradient_checkpointing).train()
    size, (work, batch) = size_of(policy), workload_of(policy)
    hold_masters(policy.model, policy.dtype)
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address is reused
        return tensor

    with policy.rounded():
        own |= {p.untyped_storage().data_ptr() for m in policy.modules() for p in m._parameters.values() if p is not None}
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            policy.token_logprobs(batch)
    counted = activation_bytes(size, replace(work, gradient_checkpointing=gradient_checkpointing))
    counted += logit_bytes(size, work)
    measured = sum(storage.nbytes() for storage in kept.values())
    print(family, dtype, gradient_checkpointing, counted, measured, counted / measured)
    assert counted / ACTIVATIONS_WITHIN <= measured <= counted * ACTIVATIONS_WITHIN
