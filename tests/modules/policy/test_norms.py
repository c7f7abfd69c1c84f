"""Norms compute what Hugging Face's compute, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from modules.policy.norms import NormFunction, use_own_norms

NORMS = [Qwen2_5_VLRMSNorm, Qwen3VLTextRMSNorm]
#: Hidden states, a decoding step, and heads that are not contiguous.
SHAPES = [(2, 30, 48), (5, 1, 48), (1, 40, 4, 48)]


def norms(kind: Any) -> tuple[Any, Any]:
    """Hugging Face's norm and ours, with the same weights."""
    theirs = kind(48, eps=1e-5)
    theirs.weight.data.uniform_(0.5, 1.5)
    ours = copy.deepcopy(theirs)
    use_own_norms(ours)
    return theirs, ours


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients(kind: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs, ours = norms(kind)
    x, gradient = 3 * torch.randn(shape).transpose(0, 1), torch.randn(shape).transpose(0, 1)
    results = []
    for norm in (theirs, ours):
        leaf = x.clone().requires_grad_()
        output = norm(leaf)
        output.backward(gradient)
        results.append((output.detach(), leaf.grad, norm.weight.grad))
        with torch.no_grad():
            assert_close(norm(x), output.detach(), rtol=1e-6, atol=1e-6)
    assert_close(results[1], results[0], rtol=2e-5, atol=2e-6)


def test_gradient_against_finite_differences() -> None:
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: NormFunction.apply(*inputs, 1e-6), (x, weight))


def test_frozen_weight_gets_no_gradient() -> None:
    _, ours = norms(Qwen2_5_VLRMSNorm)
    ours.weight.requires_grad_(False)
    x = torch.randn(4, 48, requires_grad=True)
    ours(x).sum().backward()
    assert ours.weight.grad is None
    assert x.grad is not None


def test_half_precision_is_hugging_faces() -> None:
    theirs, ours = norms(Qwen2_5_VLRMSNorm)
    x = torch.randn(2, 5, 48).bfloat16()
    assert torch.equal(theirs.bfloat16()(x), ours.bfloat16()(x))


def test_other_norms_stay() -> None:
    norm = Qwen3_5RMSNorm(8)
    use_own_norms(norm)
    assert type(norm) is Qwen3_5RMSNorm
