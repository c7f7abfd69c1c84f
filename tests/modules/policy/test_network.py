"""Parts of a network: image grids, banned tokens, frozen parts, precision, arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.errors import ConfigError, ConversationError
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import FAMILIES, LORA, gradients, noise, sampled_conversations, small_policy


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_linear_patch_embedding_is_the_convolution(family: str) -> None:
    policy = small_policy(family)
    vision = policy.core.config.vision_config
    shape = (7, vision.in_channels, 1, vision.patch_size, vision.patch_size)
    still = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    patches = still.expand(-1, -1, vision.temporal_patch_size, -1, -1)
    embedding = policy.core.visual.patch_embed
    torch.testing.assert_close(embedding(patches.flatten(1)), embedding.proj(patches).flatten(1), atol=1e-5, rtol=1e-5)


_POLICY_FOR_GRIDS = small_policy()


@given(width=st.integers(1, 700), height=st.integers(1, 700))
def test_grid_is_that_of_the_image_processor(width: int, height: int) -> None:
    policy = _POLICY_FOR_GRIDS
    if max(width, height) / min(width, height) > 200:
        with pytest.raises(ConversationError, match=f"{width} x {height}"):
            policy.image_grid((width, height))
        return
    inputs = policy.image_processor(images=[noise(width, height)], return_tensors="pt")
    grid = policy.image_grid((width, height))
    assert tuple(inputs["image_grid_thw"][0].tolist()) == grid
    assert inputs["pixel_values"].shape[0] == grid[1] * grid[2]
    assert policy.count_image_tokens((width, height)) == grid[1] * grid[2] // 4


# ---- tokens that the policy may not write ----------------------------------------------------------------------------


def test_only_the_end_of_the_turn_may_be_written_of_the_special_tokens() -> None:
    policy = small_policy()
    vocabulary = policy.tokenizer.get_vocab()
    special = {token for token in vocabulary if token.startswith("<|")} | {"<tool_response>", "</tool_response>"}
    banned = {
        policy.tokenizer.convert_ids_to_tokens(index) for index in policy.is_banned_V.nonzero().flatten().tolist()
    }
    assert banned == special - {"<|im_end|>"}
    assert {"<think>", "</think>", "<tool_call>", "</tool_call>"} <= vocabulary.keys() - banned


def test_rows_of_the_head_beyond_the_tokenizer_are_banned() -> None:
    policy = small_policy()
    n_tokens = len(policy.tokenizer)
    policy.model.resize_token_embeddings(n_tokens + 8)
    is_banned_V = policy._banned()
    assert is_banned_V.shape == (n_tokens + 8,)
    assert is_banned_V[n_tokens:].all()
    assert not is_banned_V[policy.conversation.end_of_turn_id]


# ---- freezing, precision, arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_frozen_part_gets_no_gradient(family: str, part: Any) -> None:
    policy = small_policy(family, frozen=[part])
    policy.token_logprobs(policy.collate(sampled_conversations(policy)))[0].sum().backward()
    trained = set(gradients(policy))

    def part_of(name: str) -> str:
        if "visual" not in name:
            return "language"
        return "projector" if "merger" in name else "vision"

    everything = {name for name, _ in policy.named_parameters()}
    assert trained == {name for name in everything if part_of(name) != part}
    assert {part_of(name) for name in everything} == {"vision", "projector", "language"}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_are_trained_with_lora(family: str) -> None:
    policy = small_policy(family, lora=LORA)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_samples_scores_and_learns(family: str) -> None:
    policy = small_policy(family, dtype="bfloat16")
    batch = policy.collate(sampled_conversations(policy))
    logprobs_BT, _ = policy.token_logprobs(batch)
    assert logprobs_BT.dtype == torch.float32
    assert (logprobs_BT - batch.logprobs_BT).abs().mean() < 0.05
    logprobs_BT.sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(policy).values())


@pytest.mark.parametrize("arguments", [{}, {"source": "x", "build": TinyConfig()}], ids=["neither", "both"])
def test_exactly_one_of_source_and_build(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one of source"):
        Policy(**arguments)


@pytest.mark.parametrize(
    "lora", [{"rank": 4}, {"target_modules": ["no_such_layer"]}], ids=["unknown argument", "no module"]
)
def test_lora_arguments_that_do_not_fit(lora: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"policy\.lora"):
        small_policy(lora=lora)
