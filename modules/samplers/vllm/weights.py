"""The policy's weights as an engine loads them: whole tensors with their checkpoint names, one part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.policy.deferred import WRAPPERS
from modules.policy.policy import Policy
from modules.policy.sharded_export import stored_name, write_config
from modules.policy.shards import is_first_process, whole

#: Bytes of a part, which a process holds beside the policy while weights are sent.
PART_BYTES = 1 << 30

Part = list[tuple[str, Tensor]]


def parts(policy: Policy, dtype: torch.dtype, merge: bool, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The weights in parts; if the policy is sharded, all processes iterate together, and each gets whole tensors.

    Args:
        policy: The policy.
        dtype: Dtype of the tensors.
        merge: Whether adapters are added to the weights; if not, they are left out.
        part_bytes: Maximum bytes of a part, unless a single tensor is larger.
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


def write_model(policy: Policy, folder: Path, dtype: torch.dtype) -> None:
    """Write the model that a server starts from, without adapters; all processes call this, and the first writes.

    If vLLM 0.32 starts from random weights ("dummy") and gets the true weights later, it keeps wrong image features.
    """
    file_of: dict[str, str] = {}
    is_writer = is_first_process()
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts(policy, dtype, merge=False) if is_writer or policy.is_sharded else ()):
        name = f"model-{number:05d}.safetensors"
        file_of |= dict.fromkeys((tensor_name for tensor_name, _ in part), name)
        if is_writer:
            tensors = {tensor_name: tensor.cpu().contiguous() for tensor_name, tensor in part}
            save_file(tensors, folder / name, metadata={"format": "pt"})
    if is_writer:
        write_config(policy.causal, folder, dtype, file_of)
        policy.tokenizer.save_pretrained(folder)
        policy.image_processor.save_pretrained(folder)


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
    """The values of a parameter; four-bit codes are dequantized, as in the policy's computation."""
    if getattr(parameter, "quant_state", None) is not None:
        values: Tensor = import_module("bitsandbytes.functional").dequantize_4bit(parameter.data, parameter.quant_state)
        return values.to(dtype)
    return parameter.detach().to(dtype)  # type: ignore[no-any-return]
