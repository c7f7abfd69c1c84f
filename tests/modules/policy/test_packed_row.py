"""A packed row gives the same scores and gradients as padded sequences, and computes a shared prompt once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cv_lightning.types import TokenSequence, ViewedImage
from modules.policy.packed_row import PromptGroup, pack_row, prompt_groups
from modules.policy.policy import Policy
from tests.modules.helpers import (
    FAMILIES,
    LORA,
    assert_same_gradients,
    gradients,
    noise,
    sampled_conversations,
    small_policy,
)

IMAGE = 9


def sequence(prompt: list[int], reply: list[int], *images: ViewedImage) -> TokenSequence:
    tokens = TokenSequence(images=[*images])
    tokens.append(prompt, is_trained=False)
    tokens.append(reply, is_trained=True, logprobs=[-1.0] * len(reply))
    return tokens


def groups_of(*sequences: TokenSequence) -> list[tuple[tuple[int, ...], int, int, int]]:
    return [(g.members, g.n_prompt, g.n_images, g.n_tokens) for g in prompt_groups(sequences, IMAGE)]


def test_groups_share_tokens_and_images_before_the_first_reply() -> None:
    one, equal, other, result = (ViewedImage(noise(8, 8, seed)) for seed in (0, 0, 1, 2))
    prompt = [1, IMAGE, IMAGE, 2]
    found = groups_of(
        sequence(prompt, [5, 6], one),
        sequence(prompt, [5], other),
        sequence(prompt, [7, IMAGE, 8], equal, result),  # its tool's image is not part of the prompt
        sequence([1, 2], [5]),
        sequence([], [5]),
        sequence([], [5]),
    )
    assert found == [((0, 2), 4, 1, 9), ((1,), 0, 0, 5), ((3,), 0, 0, 3), ((4,), 0, 0, 1), ((5,), 0, 0, 1)]
    assert prompt_groups([], IMAGE) == []


def test_images_in_a_row_of_two_runs_are_two() -> None:
    images = [ViewedImage(noise(8, 8, seed)) for seed in (0, 1)]
    prompt = [IMAGE, IMAGE, 3, IMAGE]
    assert groups_of(sequence(prompt, [5], *images), sequence(prompt, [6], *images)) == [((0, 1), 4, 2, 6)]


def test_sequences_without_trained_tokens_share_nothing() -> None:
    still = [replace(sequence([1, 2], [5]), is_trained=[False] * 3) for _ in range(2)]
    assert [group.n_prompt for group in prompt_groups(still, IMAGE)] == [0, 0]


def test_row_holds_the_prompt_once_and_every_token_has_its_place() -> None:
    one, result = (ViewedImage(noise(8, 8, seed)) for seed in (0, 1))
    sequences = [
        sequence([1, IMAGE], [5, IMAGE], one, result),
        sequence([3], [4]),
        sequence([1, IMAGE], [6], one),
    ]
    row = pack_row(sequences, IMAGE, torch.device("cpu"), torch.float32)
    flat = [1, IMAGE, 5, IMAGE, 3, 4, 0, 0, 1, IMAGE, 6, 0]  # padded to four
    assert [flat[place] for place in row.source_S.tolist()] == [1, IMAGE, 5, IMAGE, 6, 3, 4]
    assert row.place_BT.tolist() == [[0, 1, 2, 3], [5, 6, 0, 0], [0, 1, 4, 0]]
    assert row.occurrences == [0, 1], "the prompt's image, then the tool's; that of the other member is the prompt's"
    assert row.n_alone == 1


@pytest.mark.parametrize(
    "changes", [{}, {"lora": LORA}, {"gradient_checkpointing": True}], ids=["full", "lora", "checkpointed"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_padded_sequences(family: str, changes: dict[str, Any]) -> None:
    policy = small_policy(family, **changes).train()
    conversations = sampled_conversations(policy)
    packed, padded = policy.pack(conversations), policy.collate(conversations)
    assert padded.row is None
    assert (packed.row is None) == (not policy.can_pack) == (family == "qwen3_5")
    assert packed.n_alone == (6 if family == "qwen3_5" else 0)
    if packed.row is not None:
        prompts = [len(conversations[0]) - 10, len(conversations[0]) - 10]
        assert packed.n_computed <= padded.n_computed - 2 * sum(prompts), "each of two prompts is computed once"
    weights_BT = torch.linspace(-1, 1, padded.logprobs_BT.numel()).view_as(padded.logprobs_BT)
    found = []
    for batch in (padded, packed):
        logprobs_BT, entropy_BT = policy(batch, 0.7)
        (logprobs_BT * weights_BT).sum().backward()
        found.append((logprobs_BT.detach(), entropy_BT, gradients(policy)))
        policy.zero_grad()
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-5)
    assert_same_gradients(found[1][2], found[0][2])


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_reference_scores_a_row(lora: dict[str, Any] | None) -> None:
    policy = small_policy(lora=lora)
    policy.freeze_reference()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    conversations = sampled_conversations(policy)
    packed, padded = (policy.reference_logprobs(each(conversations)) for each in (policy.pack, policy.collate))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    assert (packed - policy(policy.pack(conversations))[0]).abs().max() > 1e-3, "the policy moved"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_attention_is_padded(attention: str) -> None:
    policy: Policy = small_policy(attention=attention)
    assert policy.can_pack == (attention == "sdpa")
    assert (policy.pack(sampled_conversations(policy)[:2]).row is None) == (attention == "eager")


def test_a_group_of_one_is_a_sequence_alone() -> None:
    assert prompt_groups([sequence([1, 2], [5])], IMAGE) == [PromptGroup((0,), 0, 0, 3)]
