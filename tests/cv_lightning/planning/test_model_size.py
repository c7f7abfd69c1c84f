"""Parameters by part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cv_lightning.errors import CheckpointError
from cv_lightning.planning.model_size import part_of
from tests.cv_lightning.planning.test_memory import size_of
from tests.cv_lightning.planning.works import COUNTED
from tests.modules.helpers import LORA, small_policy


@pytest.mark.parametrize("family", COUNTED)
def test_parts_add_up(family: str) -> None:
    policy = small_policy(family, frozen=["vision"])
    size = size_of(policy)
    core = policy.core
    assert size.n == sum(p.numel() for p in policy.parameters())
    assert size.n_trained == sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert size.parts["head"].n == policy.causal.lm_head.weight.numel()
    in_language = [m.weight.numel() for m in core.language_model.modules() if isinstance(m, nn.Linear)]
    assert size.parts["language"].n_products == sum(in_language)
    assert size.parts["vision"].n_trained == size.parts["patches"].n_trained == 0
    assert size.parts["projector"].n_trained == size.parts["projector"].n > 0


def test_adapters_are_counted_with_their_part() -> None:
    size = size_of(small_policy(lora=LORA))
    # Rank 4 on queries (32 -> 32) and values (32 -> 16) of two layers.
    assert size.parts["language"].n_trained == size.n_trained == 2 * (4 * (32 + 32) + 4 * (32 + 16))


def test_a_tied_table_is_counted_once_and_multiplied_with_in_the_head() -> None:
    policy = small_policy()
    policy.causal.lm_head.weight = policy.core.language_model.embed_tokens.weight
    size = size_of(policy)
    assert size.n == sum(p.numel() for p in policy.parameters())
    assert size.parts["head"].n_products == policy.causal.lm_head.weight.numel()


def test_part_of() -> None:
    assert part_of("model.visual.patch_embed.proj.weight") == "patches"
    assert part_of("model.visual.deepstack_merger_list.0.norm.weight") == "projector"
    assert part_of("model.visual.blocks.0.attn.qkv.weight") == "vision"
    assert part_of("model.language_model.layers.0.mlp.up_proj.weight") == "language"
    assert part_of("lm_head.weight") == "head"


def test_compute_dtype() -> None:
    size = size_of(small_policy(dtype="bfloat16"))
    assert size.compute_bytes == torch.bfloat16.itemsize
    assert size.cache_bytes_per_token == 2 * 2 * 1 * 16 * 2  # keys and values, layers, heads, features, bytes


def test_recurrent_layers_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="'qwen3_5' has recurrent layers"):
        size_of(small_policy("qwen3_5"))
