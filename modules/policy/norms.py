"""Root mean square norms of float32 models in fewer passes over memory.

Each elementwise operation reads and writes whole tensors. Hugging Face's norm is four operations, each with a
gradient of its own. Here the gradient is four operations and two products of a matrix with a vector, and one
activation is kept instead of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

#: Norms that multiply by their weight; Qwen3.5's multiply by one more than it.
_PLAIN = (Qwen2_5_VLRMSNorm, Qwen3VLTextRMSNorm)


class NormFunction(torch.autograd.Function):
    """`y = w x / sqrt(mean(x^2) + eps)` over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        """Keeps the input and one number per row."""
        scale = _scale(x, epsilon)
        ctx.save_for_backward(x, weight_D, scale)
        return (x * scale).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """`dx = s (w g - x s^2 mean(x w g))` with the scale s = 1 / sqrt(mean(x^2) + eps); `dw` sums `g x s`."""
        x, weight_D, scale = ctx.saved_tensors
        product_SD = (gradient * x).flatten(0, -2)
        of_weight_D = product_SD.T.mv(scale.flatten()) if ctx.needs_input_grad[1] else None
        along = product_SD.mv(weight_D).view_as(scale).mul_(scale**3)
        return (gradient * weight_D).mul_(scale).addcmul_(x, along, value=-1 / x.shape[-1]), of_weight_D, None


def _scale(x: Tensor, epsilon: float) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class _RMSNorm(nn.Module):
    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        if {hidden_states.dtype, self.weight.dtype} != {torch.float32}:
            other: Any = super()
            result: Tensor = other.forward(hidden_states)
        elif torch.is_grad_enabled():
            result = NormFunction.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        else:
            result = (hidden_states * _scale(hidden_states, self.variance_epsilon)).mul_(self.weight)
        return result


def use_own_norms(model: nn.Module) -> None:
    """Let the norms of a model compute the same as before in fewer passes, if it is in float32."""
    for module in model.modules():
        if isinstance(module, _PLAIN):
            module.__class__ = type(type(module).__name__, (_RMSNorm, type(module)), {})
