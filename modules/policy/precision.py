"""Float32 masters: the optimizer steps float32 weights, and the network computes with a rounded copy.

A bfloat16 weight of 0.02 has neighbors at a distance of 1.2e-4: an update of 1e-6 is lost in rounding. So the
optimizer holds float32 parameters. The forward and backward passes see them rounded, through a cast whose gradient is
float32 and accumulates in float32. FSDP2's `MixedPrecisionPolicy(bfloat16, float32)` computes the same. Autocast does
not: it leaves the residual stream and the key-value cache in float32, so the exported policy, and a reference policy in
bfloat16, would compute different numbers from the trained policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cv_lightning.errors import ConfigError


def hold_masters(model: nn.Module, dtype: torch.dtype) -> None:
    """Make every trained parameter float32, in place, so that ties, names and optimizers' references stay valid.

    Args:
        model: The network, before its optimizer is made.
        dtype: Dtype in which the network computes.

    Raises:
        ConfigError: The dtype is float16, whose gradients vanish without loss scaling.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained and dtype == torch.float16:
        raise ConfigError(
            "policy.dtype: expected float32 or bfloat16 for training, got float16. Its small gradients vanish without "
            "loss scaling. Use bfloat16."
        )
    for parameter in trained:
        parameter.data = parameter.data.float()


@contextmanager
def rounded_masters(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a network compute in `dtype`: inside, copies, which are made once, replace its float32 masters.

    Gradients flow to the masters. Nested uses have no effect. Keep it open during the backward pass if activations are
    recomputed there, and close it before the optimizer steps: inside, `model.parameters()` gives the copies.

    Args:
        model: The network.
        dtype: Dtype in which the network computes; float32 replaces nothing.
    """
    masters = [] if dtype == torch.float32 else list(_masters(model))
    copies: dict[nn.Parameter, Tensor] = {}  # tied parameters share a copy
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
