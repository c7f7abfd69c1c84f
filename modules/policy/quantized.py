"""QLoRA (arXiv 2305.14314): the frozen matrices of the decoder in four bits, under adapters that are trained.

bitsandbytes does the arithmetic; it is the extra `qlora`. A policy is quantized after it is loaded or merged, so a hub
model, an exported policy and a policy with adapters are treated alike.
"""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from torch import nn

from cv_lightning.errors import ConfigError

#: Bytes per weight: four bits, an eight-bit scale per 64 weights, and a float32 scale per 256 of these scales.
BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)


def quantize(model: Any, dtype: torch.dtype) -> None:
    """Replace every matrix of the decoder layers by its NF4 code, in place; embeddings, head and vision tower stay.

    Args:
        model: A Hugging Face vision-language model with its weights in memory.
        dtype: Dtype in which the model computes.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    try:
        bitsandbytes: Any = import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            "policy.quantization: bitsandbytes is not installed. Run pip install 'cv-lightning[qlora]'."
        ) from error

    class FrozenLinear4bit(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
        """A layer that checkpoints leave out, because the same source gives the same code."""

        def _save_to_state_dict(self, *args: Any) -> None: ...

        def _load_from_state_dict(self, *args: Any) -> None: ...

    for name, linear in _matrices(model):
        coded = FrozenLinear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, dtype, quant_type="nf4", device="meta"
        )
        weight = linear.weight.detach()
        coded.weight = bitsandbytes.nn.Params4bit(weight, quant_type="nf4", module=coded).to(weight.device)
        coded.bias = linear.bias
        coded.support_avx512bf16_for_cpu = False  # packs the code for another kernel, in evaluation mode only
        model.set_submodule(name, coded.requires_grad_(False))
    model.is_loaded_in_4bit = True  # PEFT reads it


def _matrices(model: Any) -> list[tuple[str, nn.Linear]]:
    layers = model.model.language_model.layers
    return [
        (f"model.language_model.layers.{name}", module)
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear)
    ]


def dequantized(model: Any, dtype: torch.dtype) -> Any:
    """A copy with the weights that a quantized model computes with; any other model is returned as it is."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return model
    dequantize_4bit = import_module("bitsandbytes.functional").dequantize_4bit
    model = copy.deepcopy(model)
    for name, coded in _matrices(model):
        linear = nn.Linear(coded.in_features, coded.out_features, coded.bias is not None, device="meta", dtype=dtype)
        code: Any = coded.weight
        linear.weight = nn.Parameter(dequantize_4bit(code.data, code.quant_state).to(dtype), requires_grad=False)
        linear.bias = coded.bias
        model.set_submodule(name, linear)
    model.is_loaded_in_4bit = False
    return model
