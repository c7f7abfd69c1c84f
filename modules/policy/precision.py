"""Float32 masters: what an optimizer steps is float32, what the network computes with is a rounded copy.

A bfloat16 weight of 0.02 has neighbours at a distance of 1.2e-4: an update of 1e-6 is lost in rounding. So the
optimizer holds float32 parameters, and forward and backward pass see them rounded, through a cast whose gradient is
float32 and adds up in float32. FSDP2's `MixedPrecisionPolicy(bfloat16, float32)` computes the same. Autocast would not:
it leaves the residual stream and the key-value cache in float32, so the exported policy, and a reference policy in
bfloat16, would compute other numbers than the trained one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cv_lightning.errors import ConfigError


def hold_masters(model: nn.Module, dtype: torch.dtype) -> None:
    """Make every parameter that is trained float32, in place: ties, names and optimizers' references stay.

    Args:
        model: The network, before its optimizer is made.
        dtype: What it computes in.

    Raises:
        ConfigError: It computes in float16, whose gradients vanish without loss scaling.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained and dtype == torch.float16:
        raise ConfigError(
            "policy.dtype: expected float32 or bfloat16 for training but got float16, whose small gradients vanish "
            "without loss scaling. Use bfloat16."
        )
    for parameter in trained:
        parameter.data = parameter.data.float()


@contextmanager
def rounded_masters(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a network compute in `dtype`: its float32 masters are swapped for copies, made once, until the end.

    Gradients flow to the masters. Nested uses do nothing more. Hold it open over the backward pass if activations are
    recomputed there, and close it before the optimizer: inside, `model.parameters()` gives the copies.

    Args:
        model: The network.
        dtype: What it computes in; float32 swaps nothing.
    """
    masters = [] if dtype == torch.float32 else list(_masters(model))
    copies: dict[nn.Parameter, Tensor] = {}  # tied parameters share one
    for module, name, master in masters:
        if master not in copies:
            copies[master] = master.to(dtype)
        held: dict[str, Any] = module._parameters
        held[name] = copies[master]
    try:
        yield
    finally:
        for module, name, master in masters:
            module._parameters[name] = master


def _masters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, nn.Parameter):  # a copy: another use is open
                continue
            if parameter.requires_grad and parameter.dtype == torch.float32:
                yield module, name, parameter
