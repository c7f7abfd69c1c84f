"""Recurrent layers give the same states and outputs with holes in the input as without."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modules.policy.policy import Policy
from modules.policy.recurrence import StateLayer, tokens_of_block
from tests.modules.helpers import LORA, sampled_conversations, small_policy

POLICY = small_policy("qwen3_5")
#: Also adapts the gates and projections of the recurrent layers.
RECURRENT_LORA = {**LORA, "target_modules": ["q_proj", "in_proj_qkv", "in_proj_a", "in_proj_b", "out_proj"]}

#: For each block, the number of tokens in each of two rows; 0 is a row of holes only.
blocks = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any), min_size=1, max_size=6)


def fed(ids_T: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Hidden states [T, D] of a row that is fed in one call, and the states after it."""
    cache = POLICY.family.cache(POLICY.core.config)
    ids_1T = ids_T[None]
    hidden = POLICY.hidden_states(
        ids_1T, torch.ones_like(ids_1T), torch.arange(len(ids_T)).expand(3, 1, -1), None, (), cache
    )
    return hidden[0], states(cache)


def states(cache: object) -> list[Tensor]:
    layers = [layer for layer in cache.layers if isinstance(layer, StateLayer)]  # type: ignore[attr-defined]
    return [held[0] for layer in layers for held in (layer.conv_states, layer.recurrent_states)]


@torch.no_grad()
@given(blocks=blocks)
def test_holes_leave_states_and_outputs_as_they_are(blocks: list[tuple[int, int]]) -> None:
    ids_BT = torch.randint(20, 200, (2, 40), generator=torch.Generator().manual_seed(0))
    cache = POLICY.family.cache(POLICY.core.config)
    is_valid_BL = torch.empty(2, 0, dtype=torch.bool)
    found: list[list[Tensor]] = [[], []]
    n_fed = torch.zeros(2, 1, dtype=torch.long)
    for block in blocks:
        lengths_B1 = torch.tensor(block)[:, None]
        columns_BK = n_fed + torch.arange(int(lengths_B1.max()))
        is_new_BK = columns_BK < n_fed + lengths_B1
        is_valid_BL = torch.cat([is_valid_BL, is_new_BK], 1)
        hidden_BKD = POLICY.hidden_states(
            ids_BT.gather(1, columns_BK), is_valid_BL.int(), columns_BK.expand(3, -1, -1), None, (), cache
        )
        for row, length in enumerate(block):
            found[row].append(hidden_BKD[row, :length])
        n_fed = n_fed + lengths_B1
    for row, length in enumerate(n_fed[:, 0].tolist()):
        if length:
            expected_TD, expected = fed(ids_BT[row, :length])
            torch.testing.assert_close(torch.cat(found[row]), expected_TD, atol=1e-4, rtol=0)
        else:
            expected = [torch.zeros_like(held[:1])[0][None] for held in states(cache)]
        for held, alone in zip(states(cache), expected, strict=True):
            torch.testing.assert_close(held[row], alone[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_hole_would_change_the_state_if_the_gates_stayed_open() -> None:
    """Hugging Face's own handling of holes is not enough, so the tests above can fail."""
    policy = small_policy("qwen3_5")
    for module in policy.core.language_model.modules():
        if hasattr(module, "in_proj_a"):
            module.in_proj_a._forward_hooks.clear()
            module.in_proj_b._forward_hooks.clear()
    batch = policy.collate(sampled_conversations(policy))
    assert (policy.token_logprobs(batch)[0] - batch.logprobs_BT).abs().max() > 1e-3


def huggingface_logprobs(policy: Policy, ids: list[int], images: list[object]) -> Tensor:
    """Log-probabilities [T - 1] of one unpadded sequence by Hugging Face's own forward pass, without a cache."""
    ids_1T = torch.tensor([ids])
    inputs = policy.image_processor(images=images, return_tensors="pt")
    logits = policy.model(
        input_ids=ids_1T,
        mm_token_type_ids=(ids_1T == policy.core.config.image_token_id).int(),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        use_cache=False,
    ).logits[0, :-1]
    banned = policy.is_banned_V
    return logits.float().masked_fill(banned, float("-inf")).log_softmax(-1).gather(-1, ids_1T[0, 1:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("lora", [None, LORA, RECURRENT_LORA], ids=["full", "lora", "lora on gates"])
def test_sampling_over_turns_scoring_and_huggingface_agree(lora: dict[str, object] | None) -> None:
    policy = small_policy("qwen3_5", lora=lora)
    contexts = sampled_conversations(policy)
    batch = policy.collate(contexts)
    assert len({len(context) for context in contexts}) > 3, "rows of other lengths"
    scored_BT, _ = policy.token_logprobs(batch)
    torch.testing.assert_close(scored_BT, batch.logprobs_BT, atol=1e-4, rtol=0)
    for row, context in enumerate(contexts):
        expected = huggingface_logprobs(policy, context.ids, [viewed.image for viewed in context.images])
        is_trained = torch.tensor(context.is_trained)[1:]
        length = len(context)
        torch.testing.assert_close(scored_BT[row, 1:length][is_trained], expected[is_trained], atol=1e-4, rtol=0)
        sampled = torch.tensor(context.logprobs)[1:]
        torch.testing.assert_close(sampled[is_trained], expected[is_trained], atol=1e-4, rtol=0)


def test_states_are_only_kept_for_a_block() -> None:
    with pytest.raises(RuntimeError, match="tokens_of_block"):
        StateLayer().update_conv_state(torch.zeros(1, 2, 3), conv_kernel_size=4)
    with tokens_of_block(torch.tensor([[True, False]])):
        layer = StateLayer()
        assert layer.update_conv_state(torch.ones(1, 2, 2), conv_kernel_size=4).shape == (1, 2, 6)
    assert layer.conv_states[0][0, 0].tolist() == [0, 0, 0, 1]
