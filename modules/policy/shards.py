"""Helpers for sharded tensors and modules, of which each process holds a part."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

Module = TypeVar("Module", bound=nn.Module)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every process; if it is sharded, all processes call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, without a copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def store(tensor: Tensor, values: Tensor) -> None:
    """Copy a whole tensor, which every process has, into the part that this process holds; nothing is exchanged."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
    local(tensor).copy_(values)


def any_process(value: bool, device: torch.device) -> bool:
    """Whether a value is true on any process; all processes call this together."""
    flag = torch.tensor(value, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def is_one_of_several() -> bool:
    """Whether the run has other processes."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def is_first_process() -> bool:
    """Whether this is the first process of the run, or the only one."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def reshard(module: nn.Module) -> None:
    """Free the parameters that a forward pass without a backward pass left gathered."""
    if isinstance(module, FSDPModule):
        module.reshard()


def hollow(module: Module, dtype: torch.dtype | None = None) -> Module:
    """A copy of a module with frozen parameters on the meta device and the buffers as they are.

    Args:
        module: Module with whole parameters; shards cannot be copied.
        dtype: Dtype of the copy's parameters; None keeps the dtypes.
    """
    memo: dict[int, object] = {}  # deepcopy reuses its entries, so tied parameters stay tied
    for parameter in module.parameters():
        empty = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    return copy.deepcopy(module, memo)


def give_memory(module: nn.Module, device: torch.device) -> None:
    """Allocate the parameters and buffers that are on the meta device, uninitialized, and leave the others."""
    made: dict[int, Tensor] = {}  # tied parameters share their memory

    def allocated(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        return made.setdefault(id(tensor), torch.empty_like(tensor, device=device))

    module._apply(allocated)  # type: ignore[no-untyped-call]


def free_memory(module: nn.Module) -> None:
    """Move the parameters to the meta device."""

    def freed(tensor: Tensor) -> Tensor:
        return tensor.to("meta") if isinstance(tensor, nn.Parameter) else tensor

    module._apply(freed)  # type: ignore[no-untyped-call]
