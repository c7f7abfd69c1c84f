"""Weights that are read after a model is sharded: each process reads its own part from the files.

No process holds the whole model in host memory or on an accelerator: each process copies only its rows of a tensor out
of the memory-mapped safetensors file.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils.hub import cached_file

from cv_lightning.errors import CheckpointError, ConfigError, first_line
from modules.policy.shards import local

#: Names that PEFT inserts between the name of a module and the name of its weight.
WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save\.\w+)\.")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
#: Arguments of `peft.LoraConfig` for which new adapters do not need the weights of their base.
OF_SHAPES = {
    *("r", "lora_alpha", "lora_dropout", "lora_bias", "bias", "use_rslora", "task_type", "init_lora_weights"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern"),
}


def build_without_weights(source: str, dtype: torch.dtype, attention: str) -> Any:
    """The model of a folder or hub name, with meta parameters; raises the errors of `from_pretrained`."""
    config = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    with contextlib.suppress(OSError):  # a folder may have none
        model.generation_config = GenerationConfig.from_pretrained(source)
    _compute_buffers(model)
    return model.eval()


def _compute_buffers(model: Any) -> None:
    """Compute rotary frequencies, which are not stored, by Hugging Face's initialization of their modules."""
    for module in model.modules():
        if not module._buffers:
            continue
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
        model._init_weights(module)


def check_deferrable(lora: Mapping[str, Any], quantization: str | None) -> None:
    """Raise `ConfigError` if a policy needs its weights before they are loaded.

    Args:
        lora: Arguments of new adapters; adapters of DoRA, PiSSA and others start from the weights.
        quantization: Quantization of the policy.
    """
    if quantization is not None:
        raise ConfigError("policy.quantization: expected deferred: false, because four-bit codes cannot be sharded.")
    start = lora.get("init_lora_weights", True)
    if not (lora.keys() <= OF_SHAPES and (isinstance(start, bool) or start == "gaussian")):
        raise ConfigError(
            "policy.lora: adapters of this kind (DoRA, PiSSA, ...) start from the loaded weights. Set policy.deferred: "
            "false, so that each process loads the whole model."
        )


@contextmanager
def weightless_on_host(model: nn.Module) -> Iterator[None]:
    """Inside, parameters of the meta device are replaced by host parameters that take no memory.

    PEFT moves a new adapter to the device of its base: on the meta device the adapter would lose its initial values.
    """
    shown: dict[nn.Parameter, nn.Parameter] = {
        parameter: nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape), parameter.requires_grad)
        for parameter in model.parameters()
        if parameter.is_meta
    }
    _swap(model, shown)
    try:
        yield
    finally:
        for meta, host in shown.items():
            meta.requires_grad_(host.requires_grad)
        _swap(model, {host: meta for meta, host in shown.items()})


def _swap(model: nn.Module, others: Mapping[nn.Parameter, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter in others:
                module._parameters[name] = others[parameter]


def load_shards(model: Any, source: str) -> None:
    """Read the weights of a model from `source`; each process reads the rows that it holds.

    Args:
        model: Hugging Face's model, without adapters' wrapper; its parameters have memory.
        source: Folder or hub name.

    Raises:
        CheckpointError: A file or tensor is missing or broken, or has another shape.
    """
    targets = weights_by_name(model)
    read: set[str] = set()
    try:
        with ExitStack() as stack:
            for name, view in _stored_tensors(model, source, targets, stack):
                for target in targets.get(name, ()):
                    copy_rows(target, view, name)
                read.add(name)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"policy.source: cannot load {source!r}: {first_line(error)}") from error
    if missing := sorted(targets.keys() - read):
        raise CheckpointError(
            f"policy.source: {source!r} lacks {missing[0]} (and {len(missing) - 1} others). Give a complete model."
        )


def _stored_tensors(model: Any, source: str, targets: Mapping[str, Any], stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """The memory-mapped tensors of the files, with the model's names for them."""
    rename = renamer(model, targets)
    for path in _files(source):
        file: Any = stack.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118  # not a dictionary
            yield rename(key), file.get_slice(key)


def weights_by_name(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of a model by their names without adapters; parameters of new adapters are left out."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            found.setdefault(WRAPPERS.sub(".", name), []).append(parameter)
    return found


def renamer(model: Any, names: Mapping[str, Any]) -> Callable[[str], str]:
    """A function from a tensor's name in files, perhaps of an older version, to the model's name for it.

    The function raises `ValueError` if the tensor is stored in another layout.

    Args:
        model: Hugging Face's model.
        names: The model's own names.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if not isinstance(each, WeightRenaming)]

    def rename(key: str) -> str:
        name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, names)
        if converted is not None:
            raise ValueError(f"{key} is stored in another layout than the model's. Set policy.deferred: false")
        return str(name)

    return rename


def _files(source: str) -> list[str]:
    index = cached_file(source, INDEX, _raise_exceptions_for_missing_entries=False)
    names = [SINGLE] if index is None else sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [str(cached_file(source, name)) for name in names]


@torch.no_grad()
def copy_rows(target: Tensor, view: Any, name: str) -> None:
    """Copy the rows of a stored tensor that this process holds; raises `ValueError` if it has another shape."""
    if tuple(view.get_shape()) != tuple(target.shape):
        raise ValueError(f"{name}: expected shape {tuple(target.shape)}, got {tuple(view.get_shape())}")
    if not target.ndim:
        target.copy_(view[:])
    elif (rows := own_rows(target)) is not None:
        local(target).copy_(view[rows])


def own_rows(tensor: Tensor) -> slice | None:
    """The rows of a tensor that this process holds; None if it holds none."""
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor))
    size, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return slice(offset[0], offset[0] + size[0]) if size and size[0] else None
