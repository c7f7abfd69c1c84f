"""The policy's weights as an engine loads them: whole tensors by their names in checkpoints, one part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from modules.policy.deferred import WRAPPERS
from modules.policy.policy import Policy
from modules.policy.sharded_export import stored_name
from modules.policy.shards import whole

#: Bytes of a part: what a process holds beside the policy while weights are sent.
PART_BYTES = 1 << 30

Part = list[tuple[str, Tensor]]


def parts(policy: Policy, dtype: torch.dtype, merge: bool, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The weights in parts; of a sharded policy all processes iterate together, and each gets whole tensors.

    Args:
        policy: The policy.
        dtype: Of the tensors.
        merge: Whether adapters are added to the weights; if not, they are left out.
        part_bytes: Of a part, unless one tensor alone has more.
    """
    part: Part = []
    room = part_bytes
    for name, tensor in _whole_tensors(policy, dtype, merge):
        size = tensor.numel() * tensor.element_size()
        if part and size > room:
            yield part
            part, room = [], part_bytes
        part.append((name, tensor))
        room -= size
    if part:
        yield part


def _whole_tensors(policy: Policy, dtype: torch.dtype, merge: bool) -> Iterator[tuple[str, Tensor]]:
    deltas = dict(_adapted(policy.causal)) if merge and policy.is_lora else {}
    for name, parameter in policy.causal.named_parameters():
        is_trained_copy = ".modules_to_save." in name
        if ".lora_" in name or (is_trained_copy and not merge) or (merge and ".original_module." in name):
            continue
        with torch.no_grad():
            tensor = whole(_values(parameter, dtype))
            module = deltas.get(name)
            if module is not None:
                for adapter in module.active_adapters:
                    tensor = tensor + whole(module.get_delta_weight(adapter)).to(tensor)
            own_name = WRAPPERS.sub(".", name)
            yield stored_name(policy.causal, own_name), tensor.to(dtype)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that adapters change, by the name of the weight under them."""
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            yield f"{name}.base_layer.weight", module


def _values(parameter: Any, dtype: torch.dtype) -> Tensor:
    """The values of a parameter; those of four-bit codes are what the policy computes with."""
    if getattr(parameter, "quant_state", None) is not None:
        values: Tensor = import_module("bitsandbytes.functional").dequantize_4bit(parameter.data, parameter.quant_state)
        return values.to(dtype)
    return parameter.detach().to(dtype)  # type: ignore[no-any-return]
