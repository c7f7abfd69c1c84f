"""Bytes that a plan counts, against those that torch holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from cv_lightning.planning.memory import activation_bytes, logit_bytes, memory
from cv_lightning.planning.model_size import ModelSize, measure
from cv_lightning.rollout import Sampling
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from tests.cv_lightning.planning.works import COUNTED, WORK, workload_of
from tests.modules.helpers import LORA, SIZE, sampled_conversations, small_policy

#: A policy whose matrices fill all their blocks of 64 weights.
LARGER = {"family": "qwen2_5_vl", **SIZE, "hidden_size": 256, "intermediate_size": 512, "heads": 4}
#: The largest factor allowed between the counted and the measured bytes of activations.
ACTIVATIONS_WITHIN = 1.2


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
        ("bfloat16", {"lora": LORA, "quantization": "nf4", "build": LARGER}),
    ],
)
def test_states_are_those_that_torch_holds_after_a_step(
    dtype: str, changes: dict[str, Any], optimizer: str, planned: Any
) -> None:
    if "quantization" in changes:
        pytest.importorskip("bitsandbytes", reason="the extra qlora")
    policy = small_policy(dtype=dtype, **changes | ({"build": TinyConfig(**LARGER)} if "build" in changes else {}))
    policy.prepare_training()
    stepped_optimizer = stepped(policy, OptimizerConfig(optimizer, lr=1e-3))
    parts = planned({"dtype": dtype, **changes}, optimizer)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    held = [p for p in policy.model.parameters() if not p.requires_grad]
    codes = [p.quant_state for p in held if hasattr(p, "quant_state")]
    scales = sum(storage_bytes([s.absmax, s.state2.absmax]) for s in codes)
    rounded = 2 * sum(p.numel() for p in trained) if dtype == "bfloat16" else 0
    moments = [
        value
        for part in getattr(stepped_optimizer, "parts", [stepped_optimizer])
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    assert parts["weights"] == pytest.approx(storage_bytes(held) + scales + rounded, rel=0.05)
    assert parts["masters"] == pytest.approx(storage_bytes(trained), rel=0.05)
    assert parts["gradients"] == pytest.approx(storage_bytes(p.grad for p in trained if p.grad is not None), rel=0.05)
    assert parts["optimizer states"] == pytest.approx(storage_bytes(moments), rel=0.05)


def kept_bytes(policy: Policy, forward: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for the backward pass, without parameters and their rounded copies."""
    kept: dict[int, Any] = {}
    with policy.rounded():
        own = {
            p.untyped_storage().data_ptr() for m in policy.modules() for p in m._parameters.values() if p is not None
        }

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # so its address is not reused
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            forward()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", COUNTED)
def test_activations_are_those_that_torch_keeps(family: str, dtype: str, gradient_checkpointing: bool) -> None:
    policy = small_policy(family, dtype=dtype, gradient_checkpointing=gradient_checkpointing).train()
    size, (work, batch) = size_of(policy), workload_of(policy)
    policy.prepare_training()
    counted = activation_bytes(size, replace(work, gradient_checkpointing=gradient_checkpointing))
    if gradient_checkpointing:  # the activations of a recomputed layer exist in the backward pass only
        counted -= work.tokens * size.layer_bytes_per_token() + work.patches * size.block_bytes_per_patch()
    measured = kept_bytes(policy, lambda: policy._scored_hidden_states(batch))
    assert counted / ACTIVATIONS_WITHIN <= measured <= counted * ACTIVATIONS_WITHIN


def test_logits_are_those_that_the_loss_keeps() -> None:
    policy = small_policy(dtype="bfloat16").train()
    size, (work, batch) = size_of(policy), workload_of(policy)
    policy.prepare_training()
    hidden_MD = torch.randn(work.sampled, size.text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    targets_M = batch.input_ids_BT[0, : work.sampled]
    kept = kept_bytes(policy, lambda: policy._score(hidden_MD, targets_M, 1.0, entropy="measured"))
    rows = 4 * size.text.vocab_size * work.sampled
    assert rows <= kept < logit_bytes(size, work) <= 5 * rows


def test_cache_is_that_of_a_session() -> None:
    policy = small_policy()
    contexts = sampled_conversations(policy)
    session: Any = policy.open_session(Sampling(1.0, 4, seed=1))
    session.sample(contexts[:3])
    n_bytes = sum(t.numel() * t.element_size() for layer in session._cache.layers for t in (layer.keys, layer.values))
    length = session._cache.get_seq_length()
    work = replace(WORK, batch_size=1, group_size=3, tokens=length)
    assert memory(size_of(policy), work).parts["KV cache"] == n_bytes


def test_shares_a_replica_and_gathered_layers() -> None:
    policy = small_policy(dtype="bfloat16")
    policy.prepare_training()
    size = replace(size_of(policy, optimizer_bytes=8000), compute_bytes=2)
    work = replace(WORK, devices=4, batch_size=4, group_size=2, has_reference=True).sharded()
    work = replace(work, keeps_whole_gradients=False)
    parts = memory(size, work).parts
    assert parts["masters"] == parts["gradients"] == size.n
    assert parts["optimizer states"] == 2000
    assert not parts["weights"]
    assert not parts["gradient buckets"]
    assert parts["reference"] == -(-2 * size.n // 4)
    assert parts["replica"] == 2 * size.n
    layers = [*policy.core.language_model.layers, *policy.core.visual.blocks]
    of_layers = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert size.largest_layer == max(of_layers)
    assert size.root == size.n - sum(of_layers)
    assert parts["gathered layers"] == 2 * (size.root + 2 * max(of_layers)) + 6 * (size.root + max(of_layers))
    whole = memory(size, replace(work, keeps_whole_gradients=True)).parts
    assert whole["gradients"] == 4 * size.n
    phases = memory(size, work).phases
    gathered = {name: replace(work, has_replica=False) for name in phases}
    without = {name: memory(size, each).phases[name] for name, each in gathered.items()}
    assert {name for name in phases if phases[name] != without[name]} == {"rollout"}, "it is freed before the update"
    halved = memory(size, replace(work, sequences_at_once=5)).parts
    assert 2 * halved["KV cache"] == parts["KV cache"]


def test_phases_hold_what_is_there_at_once() -> None:
    size = size_of(small_policy(), optimizer_bytes=1000)
    work = replace(WORK, devices=2, group_size=4, has_reference=True, has_accelerator=True)
    found = memory(size, work)
    parts = found.parts
    held = parts["masters"] + 1000 + parts["gradient buckets"] + parts["reference"]
    assert parts["weights"] == 0  # the float32 masters serve as weights
    assert parts["gradient buckets"] == parts["gradients"] == parts["reference"] == 4 * size.n
    assert found.phases["update"] == held + parts["gradients"] + parts["activations"] + parts["logits"]
    assert found.phases["rollout"] == held + parts["KV cache"] + parts["activations, rollout"]
    assert found.phases["optimizer step"] == held + parts["gradients"] + parts["optimizer's copies"]
    assert found.states == held + parts["gradients"]
    alone = memory(size, replace(WORK, devices=1))
    assert set(alone.phases) == {"update", "optimizer step"}
    assert not alone.parts["gradient buckets"]
