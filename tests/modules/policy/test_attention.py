"""Attention over packed images equals attention over each image, and the vision tower uses it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from modules.policy.attention import NAME, packed_attention
from tests.modules.helpers import FAMILIES, noise, small_policy


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_packed_attention_stays_within_each_sequence(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn((3, 1, 2, sum(lengths), 4), generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    found, weights = packed_attention(nn.Identity(), query, key, value, None, scaling=0.3, cu_seq_lens_q=bounds)
    assert weights is None
    expected = [
        functional.scaled_dot_product_attention(*(tensor[:, :, start:end] for tensor in (query, key, value)), scale=0.3)
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(expected, dim=2).transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "qwen2_5_vl with windows"])
def test_images_are_encoded_as_hugging_face_does_one_by_one(family: str) -> None:
    policy = small_policy(family.split()[0])
    if "windows" in family:  # as the large models do in most of their layers
        policy.core.visual.fullatt_block_indexes = [1]
    assert policy.core.visual.config._attn_implementation == NAME
    images = [noise(84, 84, 0), noise(120, 60, 1), noise(84, 84, 2), noise(60, 120, 3), noise(196, 140, 4)]
    packed = policy.encode_images(images)[0].pooler_output
    visual = copy.deepcopy(policy.core.visual)
    visual.config._attn_implementation_internal = "eager"
    for image, features in zip(images, packed, strict=True):
        inputs = policy.image_processor(images=[image], return_tensors="pt")
        alone = visual(inputs["pixel_values"], inputs["image_grid_thw"])
        torch.testing.assert_close(features, alone.pooler_output, atol=1e-5, rtol=1e-5)
