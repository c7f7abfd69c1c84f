"""Parts of a policy that are gathered separately, and policies that cannot be sharded; no data is exchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from cv_lightning.errors import ConfigError
from modules.sharding.shard import reduce_gradients, shard
from tests.modules.helpers import FAMILIES, small_policy
from tests.modules.sharding.test_planned_bytes import process_of_two


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_and_block_is_gathered_alone_and_the_rest_with_the_policy(family: str) -> None:
    with process_of_two(rank=0):
        policy = small_policy(family)
        whole = {name: parameter.shape for name, parameter in policy.named_parameters()}
        shard(policy, init_device_mesh("cpu", (2,)))
        units = {module for module in policy.modules() if isinstance(module, FSDPModule)}
        assert units == {policy, *policy.core.visual.blocks, *policy.core.language_model.layers}
        assert policy.is_sharded
        for name, parameter in policy.named_parameters():
            assert parameter.shape == whole[name]
            assert parameter.to_local().shape[0] == -(-whole[name][0] // 2), name  # type: ignore[operator]


def test_codes_of_four_bits_cannot_be_sharded() -> None:
    policy = small_policy()
    policy.causal.is_loaded_in_4bit = True
    with process_of_two(rank=0), pytest.raises(ConfigError, match=r"policy\.quantization: four-bit codes"):
        shard(policy, init_device_mesh("cpu", (2,)))


def test_a_module_that_is_not_sharded_is_left_alone() -> None:
    module = nn.Linear(2, 1)
    reduce_gradients(module, is_enabled=False)
    module(torch.ones(1, 2)).sum().backward()
    assert module.weight.grad is not None
