"""Tensors and modules without memory, in one process."""

from __future__ import annotations

import torch
from torch import nn

from modules.policy.shards import (
    free_memory,
    give_memory,
    hollow,
    is_first_process,
    is_one_of_several,
    local,
    store,
    whole,
)


class Tied(nn.Module):
    """Two layers with a tied weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([2.0]))


def test_a_hollow_copy_has_shapes_ties_and_buffers_and_no_weights() -> None:
    module = Tied()
    copy = hollow(module, torch.bfloat16)
    assert all(parameter.is_meta and not parameter.requires_grad for parameter in copy.parameters())
    assert {parameter.dtype for parameter in copy.parameters()} == {torch.bfloat16}
    assert copy.first.weight is copy.second.weight
    assert torch.equal(copy.get_buffer("scale"), module.get_buffer("scale"))
    assert {parameter.dtype for parameter in hollow(module).parameters()} == {torch.float32}
    assert module.first.weight.requires_grad
    assert not module.first.weight.is_meta


def test_memory_is_given_once_to_tied_parameters_and_what_has_memory_is_left() -> None:
    module = hollow(Tied())
    scale = module.get_buffer("scale")
    give_memory(module, torch.device("cpu"))
    assert not any(parameter.is_meta for parameter in module.parameters())
    assert module.first.weight.data_ptr() == module.second.weight.data_ptr()
    assert module.get_buffer("scale") is scale
    weight = module.first.weight
    give_memory(module, torch.device("cpu"))
    assert module.first.weight.data_ptr() == weight.data_ptr()


def test_freed_parameters_have_no_memory_and_buffers_keep_theirs() -> None:
    module = Tied()
    free_memory(module)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module.get_buffer("scale").tolist() == [2.0]


def test_in_one_process_a_part_is_the_whole() -> None:
    tensor = torch.arange(4.0)
    assert whole(tensor) is tensor
    assert local(tensor) is tensor
    store(tensor, torch.ones(4))
    assert tensor.tolist() == [1.0] * 4
    assert is_first_process()
    assert not is_one_of_several()
