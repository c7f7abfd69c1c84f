"""The last layer computes only the tokens that are read, with the same results as the full layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import (
    FAMILIES,
    LORA,
    SIZE,
    assert_same_gradients,
    gradients,
    sampled_conversations,
    small_policy,
)

#: Qwen3-VL adds image features after its first two layers.
LAYERS = 3


def policy_of(family: str, **changes: Any) -> Policy:
    build = TinyConfig(family=family, **{**SIZE, "layers": LAYERS})  # type: ignore[arg-type]
    policy = small_policy(build=build, **changes)
    assert policy._has_reading_layer
    return policy


def rows_of(policy: Policy) -> list[int]:
    """The number of tokens that the last feed-forward layer computes, one entry per call."""
    seen: list[int] = []
    mlp = policy.core.language_model.layers[-1].mlp
    mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][..., 0].numel()))
    return seen


@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": {**LORA, "target_modules": "all-linear"}}, {"gradient_checkpointing": True}],
    ids=["full", "lora", "checkpointed"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_the_whole_layer(family: str, changes: dict[str, Any], way: str) -> None:
    policy = policy_of(family, **changes).train()
    conversations = sampled_conversations(policy)
    batch = policy.pack(conversations) if way == "packed" else policy.collate(conversations)
    weights_BT = torch.linspace(-1, 1, batch.logprobs_BT.numel()).view_as(batch.logprobs_BT)
    seen = rows_of(policy)
    found = []
    for is_cut in (False, True):
        policy._has_reading_layer = is_cut
        logprobs_BT, entropy_BT = policy(batch, 0.7)
        (logprobs_BT * weights_BT).sum().backward()
        found.append((logprobs_BT.detach(), entropy_BT, gradients(policy)))
        policy.zero_grad()
    n_trained = int(batch.is_trained_BT.sum())
    assert seen[0] > 2 * n_trained
    assert seen[-1] == n_trained
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-5)
    assert_same_gradients(found[1][2], found[0][2])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_generation_is_computed_to_its_last_token(family: str) -> None:
    policy = policy_of(family)
    seen = rows_of(policy)
    cut = sampled_conversations(policy)
    assert seen[0] == 2, "two prompts"
    assert max(seen) <= 6, "six rows, in later turns and at each token"
    policy._has_reading_layer = False
    whole = sampled_conversations(policy)
    assert max(seen) > 60
    assert [context.ids for context in cut] == [context.ids for context in whole]
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(Tensor(one.logprobs), Tensor(other.logprobs), rtol=0, atol=1e-5)


def test_no_token_is_read() -> None:
    policy = policy_of("qwen2_5_vl").train()
    batch = policy.collate(_untrained(policy))
    logprobs_BT, _ = policy(batch)
    logprobs_BT.sum().backward()
    assert not logprobs_BT.any()
    assert not any(gradient.any() for gradient in gradients(policy).values())


def _untrained(policy: Policy) -> list[Any]:
    conversations = sampled_conversations(policy)[:2]
    for each in conversations:
        each.is_trained = [False] * len(each)
    return conversations


def test_features_of_images_after_the_last_layer_need_all_tokens() -> None:
    assert not small_policy("qwen3_vl")._has_reading_layer, "two layers, and features after both"
