"""Shards a policy: each process holds a part of every parameter, and gathers a layer while computing it.

Decoder layers and blocks of the vision tower are gathered and freed one by one. Everything else (embeddings, head,
norms, projector) is gathered once for a forward and backward pass, because its use depends on the data: the head is
called once for every few thousand trained tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from cv_lightning.errors import ConfigError
from modules.policy.policy import Policy
from modules.policy.shards import give_memory, hollow, local


@torch.no_grad()
def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Shard a policy and its reference over the processes of a mesh, and load the weights that were deferred.

    Args:
        policy: Policy that is whole on every process, or has no weights. Its trained parameters are already masters.
        mesh: Mesh of one dimension.

    Raises:
        ConfigError: The policy is quantized.
    """
    if getattr(policy.causal, "is_loaded_in_4bit", False):
        raise ConfigError(
            "policy.quantization: four-bit codes cannot be sharded. Leave out either it or experiments/sharded.yaml."
        )
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    reference = policy.companion(hollow(policy.model, policy.dtype), policy.dtype) if policy.has_reference else None
    _apply_fsdp(policy, mesh, frees_root=False)
    policy.load_deferred(device)
    if reference is not None:
        _apply_fsdp(reference, mesh, frees_root=True)
        give_memory(reference, device)
        reference.causal.tie_weights()
        for copied, original in zip(reference.model.parameters(), policy.model.parameters(), strict=True):
            local(copied).copy_(local(original))
        policy.replace_reference(reference)


def _apply_fsdp(policy: Policy, mesh: DeviceMesh, frees_root: bool) -> None:
    precision = MixedPrecisionPolicy(cast_forward_inputs=False)  # rotary positions stay float32, as without shards
    if policy.dtype != torch.float32:
        precision = MixedPrecisionPolicy(policy.dtype, torch.float32, cast_forward_inputs=False)
    for layer in (*policy.core.visual.blocks, *policy.core.language_model.layers):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=True if frees_root else None)
    policy.is_sharded = True


def reduce_gradients(module: nn.Module, is_enabled: bool) -> None:
    """Set whether the next backward pass exchanges gradients; if not, each process sums its own in full, in float32."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_enabled)
