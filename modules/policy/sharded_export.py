"""Writes a sharded model as a Hugging Face folder; no process ever holds the whole model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from modules.policy.deferred import INDEX, SINGLE, WRAPPERS
from modules.policy.shards import whole

#: Maximum bytes of a file, and so of the host memory that writing takes.
_FILE_BYTES = 2 * 10**9


def export_model(model: Any, folder: Path, dtype: torch.dtype, is_writer: bool) -> None:
    """Write a model without its adapters as `save_pretrained` would; all processes call it, and one writes.

    Args:
        model: Hugging Face's model with sharded parameters, maybe with PEFT's layers in it.
        folder: Folder to write to.
        dtype: Dtype of the written weights.
        is_writer: Whether this process writes; the others only help to gather.

    Raises:
        OSError: A file cannot be written. The writing process raises it after everything is gathered.
    """
    names = {stored_name(model, name): parameter for name, parameter in _own_parameters(model)}
    files = [*_files(names, dtype.itemsize)]
    fault: Exception | None = None
    weight_map: dict[str, str] = {}
    for number, of_file in enumerate(files, start=1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map |= dict.fromkeys(of_file, file)
        tensors = {}
        for name in of_file:
            gathered = whole(names[name].detach().to(dtype))
            if is_writer:
                tensors[name] = gathered.cpu().contiguous()
        if is_writer and fault is None:
            try:
                save_file(tensors, folder / file, metadata={"format": "pt"})
            except (OSError, SafetensorError) as error:  # raised at the end: the other processes wait for the gathers
                fault = error
    if fault is not None:
        raise OSError(*fault.args) from fault
    if is_writer:
        write_config(model, folder, dtype, weight_map if len(files) > 1 else None)


def adapter_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The trained parameters of a PEFT model by name, gathered; all processes call it together."""
    return {name: whole(p.detach().to(dtype)).cpu() for name, p in model.named_parameters() if p.requires_grad}


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if ".lora_" not in name and ".modules_to_save." not in name:
            yield WRAPPERS.sub(".", name), parameter


def stored_name(model: Any, name: str) -> str:
    """The name of a parameter in files, which may come from an older version of the model."""
    stored: str = next(iter(revert_weight_conversion(model, {name: torch.empty(0)})))
    return stored


def _files(names: Mapping[str, Tensor], itemsize: int) -> Iterator[list[str]]:
    """Names in the order of the model, in groups of at most `_FILE_BYTES`."""
    group: list[str] = []
    room = _FILE_BYTES
    for name, tensor in names.items():
        size = tensor.numel() * itemsize
        if group and size > room:
            yield group
            group, room = [], _FILE_BYTES
        group.append(name)
        room -= size
    yield group


def write_config(model: Any, folder: Path, dtype: torch.dtype, weight_map: dict[str, str] | None) -> None:
    """Write the configs of a Hugging Face folder, and the index of weights if `weight_map` gives the file of each."""
    model.config.dtype = str(dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if weight_map is not None:
        size = sum(parameter.numel() for _, parameter in _own_parameters(model)) * dtype.itemsize
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
