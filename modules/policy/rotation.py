"""Rotary positions of float32 queries and keys in fewer passes over memory.

Hugging Face's rotation negates, slices and concatenates, and each of these operations has a gradient of its own. Here a
rotation is a product, and for each half a product that is added in place; its gradient is the rotation back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def rotated(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A tensor [..., D] whose pairs (d, d + D / 2) are rotated by angles [..., D], equal in both halves of D."""
    if torch.is_grad_enabled():
        return _RotationFunction.apply(tensor, cos, sin)  # type: ignore[no-untyped-call, no-any-return]
    return _rotated(tensor, cos, sin)


def _rotated(tensor: Tensor, cos: Tensor, sin: Tensor, direction: int = 1) -> Tensor:
    (first, second), (sin_first, sin_second) = tensor.chunk(2, -1), sin.chunk(2, -1)
    result = tensor * cos
    result_first, result_second = result.chunk(2, -1)
    result_first.addcmul_(second, sin_first, value=-direction)
    result_second.addcmul_(first, sin_second, value=direction)
    return result


class _RotationFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(tensor, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, direction=-1), None, None


def _own(theirs: Rotate, axis: int) -> Rotate:
    """`rotated` in place of a function of Hugging Face's whose angles lack the `axis` of the heads."""

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if query.dtype != torch.float32:
            return theirs(query, key, cos, sin)
        cos, sin = cos.unsqueeze(axis), sin.unsqueeze(axis)
        return rotated(query, cos, sin), rotated(key, cos, sin)

    return rotate


#: Own functions in place of Hugging Face's. Qwen3.5 rotates only a part of its heads in text.
_OWN: dict[Any, Rotate] = {
    theirs: _own(theirs, axis)
    for theirs, axis in (
        (qwen2_5.apply_rotary_pos_emb, 1),
        (qwen3.apply_rotary_pos_emb, 1),
        (qwen2_5.apply_rotary_pos_emb_vision, -2),
        (qwen3.apply_rotary_pos_emb_vision, -2),
        (qwen3_5.apply_rotary_pos_emb_vision, -2),
    )
}


def use_own_rotation(model: nn.Module) -> None:
    """Let the attention layers of a model rotate with `rotated`.

    Their `forward` names the rotation as a global of its module, which other models in the process share; so each layer
    gets a copy of `forward` in a copy of the module's namespace that holds another function under this name.
    """
    for module in model.modules():
        theirs: Any = inspect.unwrap(type(module).forward)
        used = {theirs.__globals__.get(name) for name in theirs.__code__.co_names if name.startswith("apply_rotary")}
        if used & _OWN.keys():
            namespace = _namespace(theirs.__module__)
            forward = FunctionType(theirs.__code__, namespace, "forward", theirs.__defaults__, theirs.__closure__)
            forward.__kwdefaults__ = theirs.__kwdefaults__
            module.__class__ = type(type(module).__name__, (type(module),), {"forward": forward})


@cache
def _namespace(module: str) -> dict[str, Any]:
    """The globals of a module with our functions, as a module of its own: `torch.compile` finds globals by name."""
    name = f"{__name__}.{module.replace('.', '_')}"
    copy = sys.modules[name] = ModuleType(name)
    theirs = vars(sys.modules[module])
    copy.__dict__.update(
        theirs | {key: _OWN[value] for key, value in theirs.items() if inspect.isfunction(value) and value in _OWN}
    )
    copy.__dict__["__name__"] = name
    return copy.__dict__
