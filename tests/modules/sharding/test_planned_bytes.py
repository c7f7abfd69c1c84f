"""Bytes that a plan counts for one of two devices, against the bytes that torch holds; no data is exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from cv_lightning.planning.command import Parsed, measured
from cv_lightning.planning.memory import memory
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.policy import Policy
from modules.policy.shards import local
from modules.samplers.replica import Replica
from modules.sharding.shard import reduce_gradients, shard
from tests.cv_lightning.planning.works import COUNTED, WORK, workload_of
from tests.modules.helpers import LORA, SIZE, small_policy

SHARDED = replace(WORK, devices=2, shards=2, batch_size=1, group_size=2, has_replica=True, has_reference=True)


@contextmanager
def process_of_two(rank: int) -> Iterator[None]:
    """Make this process one of two; data gathered from the other is arbitrary, but its shapes are right."""
    torch.distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def n_bytes(tensors: Iterable[torch.Tensor]) -> int:
    storages = [local(tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def whole_gradients(policy: Policy) -> list[torch.Tensor]:
    """Gradients that FSDP2 accumulates before the last micro-batch."""
    found = []
    for module in policy.modules():
        group = module._get_fsdp_state()._fsdp_param_group if isinstance(module, FSDPModule) else None
        for each in [] if group is None else group.fsdp_params:
            gradient = each.unsharded_accumulated_grad
            if gradient is None and hasattr(each, "_unsharded_param"):
                gradient = each._unsharded_param.grad
            found += [] if gradient is None else [gradient]
    return found


def planned(policy: dict[str, Any], family: str, *, keeps_whole_gradients: bool) -> dict[str, int]:
    arguments = {"source": None, "build": {"family": family, **SIZE}, "system_prompt": "Read.", **policy}
    size, _ = measured(Parsed({"optimizer": {"lr": 1e-3}}, arguments, {}, {}), [])
    return memory(size, replace(SHARDED, keeps_whole_gradients=keeps_whole_gradients)).parts


@pytest.mark.parametrize(
    ("rank", "changes"), [(0, {}), (1, {"dtype": "bfloat16"}), (1, {"dtype": "bfloat16", "lora": LORA})], ids=str
)
@pytest.mark.parametrize("family", COUNTED)
def test_a_share_is_what_torch_holds(family: str, rank: int, changes: dict[str, Any]) -> None:
    with process_of_two(rank):
        compare(family, changes)


def compare(family: str, changes: dict[str, Any]) -> None:
    policy, replica = small_policy(family, **changes).train(), Replica()
    policy.prepare_training()
    policy.freeze_reference()
    replica.attach(policy)
    shard(policy, init_device_mesh("cpu", (2,)))
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer(policy, OptimizerConfig(lr=1e-3), 1)
    _, batch = workload_of(policy)
    parts = planned(changes, family, keeps_whole_gradients=False)

    reduce_gradients(policy, is_enabled=False)
    (-policy(batch)[0].sum()).backward()
    whole = planned(changes, family, keeps_whole_gradients=True)
    assert n_bytes(whole_gradients(policy)) == pytest.approx(whole["gradients"], rel=0.05)
    reduce_gradients(policy, is_enabled=True)
    (-policy(batch)[0].sum()).backward()
    assert not whole_gradients(policy)
    optimizer.step()
    replica.refresh()

    reference = [] if policy._reference is None else [*policy._reference.module.model.parameters()]
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    copied: Any = replica._network
    held = {
        "weights": n_bytes(p for p in policy.parameters() if not p.requires_grad),
        "masters": n_bytes(trained),
        "optimizer states": n_bytes(moments),
        "gradients": n_bytes(p.grad for p in trained if p.grad is not None),
        "reference": n_bytes(reference),
        "replica": n_bytes(copied.model.parameters()),
    }
    assert held == pytest.approx({name: parts[name] for name in held}, rel=0.05)
    assert bool(held["reference"]) == ("lora" not in changes)
