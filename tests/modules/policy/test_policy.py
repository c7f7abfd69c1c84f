"""Scores equal Hugging Face's, whatever is shared, padded or split; the reference and frozen parts do not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cv_lightning.types import Sample, TokenSequence
from modules.policy import policy as policy_file
from modules.policy.policy import Policy
from modules.policy.token_batch import DistinctImages, TokenBatch
from tests.modules.helpers import (
    FAMILIES,
    LORA,
    assert_same_gradients,
    gradients,
    sampled_conversations,
    small_policy,
)

Conversations = tuple[Policy, list[TokenSequence]]


@pytest.fixture(scope="module", params=FAMILIES)
def full(request: pytest.FixtureRequest) -> Conversations:
    policy = small_policy(request.param)
    return policy, sampled_conversations(policy)


@pytest.fixture(scope="module", params=FAMILIES)
def with_lora(request: pytest.FixtureRequest) -> Conversations:
    policy = small_policy(request.param, lora=LORA)
    return policy, sampled_conversations(policy)


def repeated(batch: TokenBatch) -> TokenBatch:
    """The same batch, with an image encoded again at each of its occurrences."""
    images = [batch.images.images_N[index] for index in batch.images.occurrences]
    return replace(batch, images=DistinctImages(images, list(range(len(images)))))


def oracle_logits(policy: Policy, batch: TokenBatch) -> Tensor:
    """Hugging Face's forward pass on the pixels of every image, with positions that it computes itself: [B, T, V]."""
    images = repeated(batch).images.images_N
    pixels = policy.image_processor(images=images, return_tensors="pt")
    is_image_BT = batch.input_ids_BT == policy.core.config.image_token_id
    output = policy.model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.is_valid_BT.int(),
        mm_token_type_ids=is_image_BT.int(),
        pixel_values=pixels["pixel_values"],
        image_grid_thw=pixels["image_grid_thw"],
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits


def oracle_logprobs(policy: Policy, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [B, T] of the trained tokens among those that the policy may write."""
    logits = oracle_logits(policy, batch).float().masked_fill(policy.is_banned_V, float("-inf"))
    logprobs = torch.log_softmax(logits[:, :-1] / temperature, -1)
    of_tokens = logprobs.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    return torch.where(batch.is_trained_BT, torch.nn.functional.pad(of_tokens, (1, 0)), 0.0)


# ---- rollout and training agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_scores_are_those_of_the_rollout(family: str, lora: dict[str, Any] | None) -> None:
    policy = small_policy(family, lora=lora)
    conversations = sampled_conversations(policy)
    batch = policy.collate(conversations)
    assert len({len(conversation) for conversation in conversations}) > 2, "padding is part of the test"
    assert max(len(conversation.images) for conversation in conversations) >= 3
    assert batch.is_trained_BT.sum() > 60
    with torch.no_grad():
        logprobs_BT, _ = policy.token_logprobs(batch)
    torch.testing.assert_close(logprobs_BT, batch.logprobs_BT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_scores_are_those_of_the_rollout_at_another_temperature(family: str, lora: dict[str, Any] | None) -> None:
    policy = small_policy(family, lora=lora)
    batch = policy.collate(sampled_conversations(policy, temperature=0.7))
    with torch.no_grad():
        torch.testing.assert_close(policy.token_logprobs(batch, 0.7)[0], batch.logprobs_BT, atol=1e-4, rtol=0)
        gap = (policy.token_logprobs(batch, 1.0)[0] - batch.logprobs_BT).abs().max()
    assert gap > 0.1, "the temperature is part of the distribution"


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_survive_training_mode_and_gradient_checkpointing(
    family: str, lora: dict[str, Any] | None, tmp_path: Path
) -> None:
    policy = small_policy(family, lora=lora, gradient_checkpointing=True)
    policy.freeze_reference()
    policy.export(tmp_path)
    batch = policy.collate(sampled_conversations(policy))
    policy.train()
    logprobs_BT, _ = policy.token_logprobs(batch)
    torch.testing.assert_close(logprobs_BT, batch.logprobs_BT, atol=1e-4, rtol=0)
    logprobs_BT.sum().backward()
    plain = small_policy(family, lora=lora).train()
    plain.token_logprobs(batch)[0].sum().backward()
    assert_same_gradients(gradients(policy), gradients(plain))


# ---- Hugging Face as the oracle --------------------------------------------------------------------------------------


@torch.no_grad()
def test_scores_are_those_of_hugging_face(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    assert len(batch.images.images_N) < len(batch.images.occurrences), "images are shared"
    for temperature in (1.0, 0.6):
        actual = policy.token_logprobs(batch, temperature)[0]
        torch.testing.assert_close(actual, oracle_logprobs(policy, batch, temperature), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_entropies_are_those_of_the_distributions(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    logits = oracle_logits(policy, batch)[:, :-1][batch.is_trained_BT[:, 1:]]
    expected = torch.distributions.Categorical(logits=logits[:, ~policy.is_banned_V]).entropy()
    entropy_BT = policy.token_logprobs(batch)[1]
    torch.testing.assert_close(entropy_BT[batch.is_trained_BT], expected, atol=1e-5, rtol=1e-5)
    assert not entropy_BT[~batch.is_trained_BT].any()


def test_the_gradient_of_an_entropy_is_that_of_the_distribution(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    assert not policy.token_logprobs(batch)[1].requires_grad, "what is only measured keeps no graph"
    logits = oracle_logits(policy, batch)[:, :-1][batch.is_trained_BT[:, 1:]]
    expected = torch.distributions.Categorical(logits=logits[:, ~policy.is_banned_V]).entropy()
    found = []
    for entropy in (expected, policy.token_logprobs(batch, entropy="learned")[1]):
        policy.zero_grad()
        entropy.sum().backward()
        found.append(gradients(policy))
    policy.zero_grad()
    assert_same_gradients(*found)


def test_each_image_once_gives_the_gradient_of_each_image_everywhere(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    found = []
    for each in (batch, repeated(batch)):
        policy.zero_grad()
        policy.token_logprobs(each)[0].sum().backward()
        found.append(gradients(policy))
    policy.zero_grad()
    assert any("visual" in name for name in found[0])
    assert_same_gradients(*found)


def test_gradient_is_that_of_hugging_face(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    found = []
    for logprobs in (policy.token_logprobs(batch)[0], oracle_logprobs(policy, batch)):
        policy.zero_grad()
        logprobs.sum().backward()
        found.append(gradients(policy))
    policy.zero_grad()
    assert_same_gradients(*found)


# ---- padding and splitting change nothing ----------------------------------------------------------------------------


@torch.no_grad()
def test_padding_never_changes_a_score(full: Conversations) -> None:
    policy, conversations = full
    together = policy.token_logprobs(policy.collate(conversations))
    order = [3, 0, 5, 1, 4, 2]
    shuffled = policy.token_logprobs(policy.collate([conversations[index] for index in order]))
    for row, conversation in enumerate(conversations):
        alone = policy.token_logprobs(policy.collate([conversation]))
        for all_BT, one_1T, mixed_BT in zip(together, alone, shuffled, strict=True):
            length = len(conversation)
            torch.testing.assert_close(all_BT[row, :length], one_1T[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mixed_BT[order.index(row), :length], one_1T[0], atol=1e-5, rtol=1e-5)
            assert not all_BT[row, length:].any()


def test_what_fills_the_padding_is_never_read(full: Conversations) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    policy.zero_grad()
    policy.token_logprobs(batch)[0].sum().backward()
    expected = gradients(policy)
    policy.zero_grad()
    other = replace(batch, input_ids_BT=batch.input_ids_BT.masked_fill(~batch.is_valid_BT, 5))
    policy.token_logprobs(other)[0].sum().backward()
    assert_same_gradients(gradients(policy), expected)
    policy.zero_grad()


def test_logits_in_chunks_and_recomputed_are_the_same(full: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, conversations = full
    batch = policy.collate(conversations)
    policy.zero_grad()
    expected = policy.token_logprobs(batch)
    expected[0].sum().backward()
    expected_gradients = gradients(policy)
    monkeypatch.setattr(policy_file, "_LARGE_VOCABULARY_ROWS", 7)
    monkeypatch.setattr(policy_file, "_LARGE_VOCABULARY", 1)
    policy.zero_grad()
    policy.train()
    actual = policy.token_logprobs(batch)
    actual[0].sum().backward()
    policy.eval()
    for each, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(each, other, atol=1e-6, rtol=1e-6)
    assert_same_gradients(gradients(policy), expected_gradients)
    policy.zero_grad()


@torch.no_grad()
def test_batch_without_images_and_without_trained_tokens(full: Conversations) -> None:
    policy, _ = full
    text = policy.conversation.start(Sample("t", "What?", (), "x"))
    logprobs_BT, entropy_BT = policy.token_logprobs(policy.collate([text, text]))
    assert logprobs_BT.shape == (2, len(text))
    assert not logprobs_BT.any()
    assert not entropy_BT.any()


# ---- the reference ---------------------------------------------------------------------------------------------------


def one_update(policy: Policy, batch: TokenBatch) -> None:
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    policy.token_logprobs(batch)[0].sum().neg().backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_without_lora_is_the_policy_as_it_was(family: str) -> None:
    policy = small_policy(family)
    batch = policy.collate(sampled_conversations(policy))
    with pytest.raises(ValueError, match="freeze_reference"):
        policy.reference_logprobs(batch)
    n_parameters = len(list(policy.parameters()))
    policy.freeze_reference()
    assert len(list(policy.parameters())) == n_parameters, "a copy is neither trained nor saved"
    before = policy.token_logprobs(batch)[0].detach()
    torch.testing.assert_close(policy.reference_logprobs(batch), before)
    one_update(policy, batch)
    assert (policy.token_logprobs(batch)[0] - before).abs().max() > 1e-3
    reference = policy.reference_logprobs(batch)
    torch.testing.assert_close(reference, before, rtol=0, atol=0)
    assert not reference.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_with_lora_is_the_model_without_adapters(family: str) -> None:
    base, policy = small_policy(family), small_policy(family, lora=LORA)
    batch = policy.collate(sampled_conversations(policy))
    policy.freeze_reference()
    with torch.no_grad():
        expected = base.token_logprobs(batch)[0]
    for _ in range(2):
        assert (policy.token_logprobs(batch)[0] - expected).abs().max() > 1e-2
        torch.testing.assert_close(policy.reference_logprobs(batch), expected, atol=1e-5, rtol=1e-5)
        one_update(policy, batch)


def test_reference_comes_back_after_an_error(full: Conversations) -> None:
    policy, conversations = full
    policy.freeze_reference()
    trained = policy.model
    batch = policy.collate(conversations)
    with pytest.raises(AttributeError):
        policy.reference_logprobs(replace(batch, images=None))  # type: ignore[arg-type]
    assert policy.model is trained
