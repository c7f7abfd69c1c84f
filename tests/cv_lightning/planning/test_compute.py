"""FLOPs that a plan counts, against torch's counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cv_lightning.planning.compute import Device, forward_flops, step_flops, step_seconds, update_flops
from tests.cv_lightning.planning.test_memory import size_of
from tests.cv_lightning.planning.works import COUNTED, WORK, workload_of
from tests.modules.helpers import LORA, small_policy


def counted(policy: Any, batch: Any, *, backward: bool) -> int:
    """FLOPs by torch's counter, without fused attention, which the counter cannot count on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(backward):
        logprobs_BT, _ = policy.token_logprobs(batch)
        if backward:
            (-logprobs_BT.sum()).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("family", COUNTED)
def test_forward_pass(family: str) -> None:
    policy = small_policy(family)
    work, batch = workload_of(policy)
    flops = counted(policy, batch, backward=False)
    assert sum(forward_flops(size_of(policy), work).values()) == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [{}, {"frozen": ["vision", "projector"]}, {"frozen": ["vision"]}, {"lora": LORA}, {"gradient_checkpointing": True}],
    ids=str,
)
@pytest.mark.parametrize("family", COUNTED)
def test_forward_and_backward_pass(family: str, changes: dict[str, Any]) -> None:
    policy = small_policy(family, **changes).train()
    work, batch = workload_of(policy)
    work = replace(work, gradient_checkpointing=changes.get("gradient_checkpointing", False))
    flops = counted(policy, batch, backward=True)
    assert update_flops(size_of(policy), work) == pytest.approx(flops, rel=0.05)


def test_a_step_adds_rollout_and_reference() -> None:
    size = size_of(small_policy())
    work = replace(WORK, batch_size=2, group_size=3, epochs=2, has_reference=True)
    flops = step_flops(size, work)
    forward = sum(forward_flops(size, work).values())
    assert flops["update"] == pytest.approx(2 * 6 * update_flops(size, work))
    assert flops["score"] == pytest.approx(6 * forward)
    # The image of a question is encoded once for its three trajectories.
    assert forward * 2 < flops["rollout"] < 6 * forward
    assert set(step_flops(size, WORK)) == {"update"}


def test_sampling_is_bound_by_memory_or_by_arithmetic() -> None:
    size, work = size_of(small_policy()), replace(WORK, group_size=2)
    slow_memory = step_seconds(size, work, Device(1e15, 1e6, 0.5))["rollout"]
    passed = sum(size.parts[name].n_products for name in ("language", "head"))
    read = 4 * passed + 2 * work.tokens * size.cache_bytes_per_token / 2
    assert slow_memory == pytest.approx(work.sampled * read / 1e6)
    slow_arithmetic = step_seconds(size, work, Device(1e9, 1e15, 0.5))["rollout"]
    assert slow_arithmetic == pytest.approx(step_flops(size, work)["rollout"] / 0.5e9)
