"""Rotations equal Hugging Face's, and only the layers of our own model use them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5

from modules.policy import rotation
from modules.policy.network import Network
from modules.policy.rotation import rotated
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import FAMILIES


def angles(*shape: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., 1, D] of random angles, equal in both halves."""
    half = 6 * torch.rand(*shape)
    both = torch.cat([half, half], -1)[..., None, :]
    return both.cos(), both.sin()


def test_rotation_and_gradient() -> None:
    torch.manual_seed(0)
    tensor, gradient = torch.randn(2, 9, 4, 16), torch.randn(2, 9, 4, 16)
    cos, sin = angles(2, 9, 8)
    results = []
    for rotate in (rotated, lambda x, c, s: x * c + qwen2_5.rotate_half(x) * s):
        leaf = tensor.clone().requires_grad_()
        output = rotate(leaf, cos, sin)
        output.backward(gradient)
        results.append((output.detach(), leaf.grad))
    assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_rotation_by_hand() -> None:
    """A quarter turn brings the pair (1, 2) to (-2, 1)."""
    turned = rotated(torch.tensor([1.0, 5.0, 2.0, 7.0]), torch.zeros(4), torch.ones(4))
    assert turned.tolist() == [-2, -7, 1, 5]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_compute_what_hugging_faces_compute(family: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"build": TinyConfig(family=family), "system_prompt": "Read.", "dtype": dtype}
    ours = Network(**sizes).core
    monkeypatch.setattr("modules.policy.network.use_own_rotation", lambda model: None)
    theirs = Network(**sizes).core
    own_layers = [type(module).__module__ == rotation.__name__ for module in ours.modules()]
    assert sum(own_layers) >= len(ours.visual.blocks)
    assert rotation.__name__ not in {type(module).__module__ for module in theirs.modules()}
    hidden, grid = torch.randn(16, ours.visual.patch_embed.proj.weight[0].numel()), torch.tensor([[1, 4, 4]])
    features = [core.visual(hidden.to(getattr(torch, dtype)), grid_thw=grid).pooler_output for core in (ours, theirs)]
    assert_close(features[0], features[1], rtol=1e-5, atol=0 if dtype == "bfloat16" else 1e-5)
    ids = torch.arange(5, 17)[None]
    states = [core(input_ids=ids).last_hidden_state for core in (ours, theirs)]
    assert_close(states[0], states[1], rtol=1e-5, atol=0 if dtype == "bfloat16" else 1e-5)


def test_hugging_faces_functions_stay() -> None:
    before = qwen2_5.Qwen2_5_VLAttention.forward, qwen2_5.apply_rotary_pos_emb
    Network(build=TinyConfig(family="qwen2_5_vl"), system_prompt="Read.")
    assert (qwen2_5.Qwen2_5_VLAttention.forward, qwen2_5.apply_rotary_pos_emb) == before


@pytest.mark.parametrize("has_gradient", [False, True])
def test_layers_compile(has_gradient: bool) -> None:
    """The compiler looks up the globals of a function by the name of its module."""
    model = Network(build=TinyConfig(family="qwen2_5_vl"), system_prompt="Read.").core.language_model
    compiled: Any = torch.compile(model, backend="aot_eager")
    results = []
    for each in (compiled, model):
        inputs = torch.ones(1, 6, 128).cumsum(1).requires_grad_(has_gradient)
        with torch.set_grad_enabled(has_gradient):
            states = each(inputs_embeds=inputs).last_hidden_state
        if has_gradient:
            states.square().sum().backward()
        results.append((states, inputs.grad))
    assert_close(results[0], results[1])
