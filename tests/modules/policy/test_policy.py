"""Scores are Hugging Face's own, whatever is shared, padded or split; the reference and frozen parts stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cv_lightning.errors import ConfigError, ConversationError
from cv_lightning.types import Sample, TokenSequence
from modules.policy import policy as policy_file
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from modules.policy.token_batch import DistinctImages, TokenBatch
from tests.modules.helpers import (
    FAMILIES,
    LORA,
    SIZE,
    assert_same_gradients,
    gradients,
    noise,
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
    """The same batch with every image encoded wherever it stands."""
    images = [batch.images.images_N[index] for index in batch.images.occurrences]
    return replace(batch, images=DistinctImages(images, list(range(len(images)))))


def oracle_logits(policy: Policy, batch: TokenBatch) -> Tensor:
    """Hugging Face's forward on pixels of every image, with positions that it works out itself: [B, T, V]."""
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


@torch.no_grad()
def test_linear_patch_embedding_is_the_convolution(full: Conversations) -> None:
    policy, _ = full
    vision = policy.core.config.vision_config
    shape = (7, vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    patches = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    embedding = policy.core.visual.patch_embed
    torch.testing.assert_close(embedding(patches.flatten(1)), embedding.proj(patches).flatten(1), atol=1e-5, rtol=1e-5)


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


_POLICY_FOR_GRIDS = small_policy()


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
    monkeypatch.setattr(policy_file, "_LOGIT_ROWS", 7)
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


# ---- tokens that are not the policy's to write -----------------------------------------------------------------------


def test_only_the_end_of_the_turn_may_be_written_of_the_special_tokens(full: Conversations) -> None:
    policy, _ = full
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


def test_only_adapters_are_trained_with_lora(with_lora: Conversations) -> None:
    policy, _ = with_lora
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


def test_same_seed_builds_the_same_policy() -> None:
    policies = [small_policy(build=TinyConfig(seed=seed, **SIZE)) for seed in (3, 3, 4)]
    weights = [torch.cat([p.detach().flatten() for p in policy.parameters()]) for policy in policies]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert policies[0].tokenizer.get_vocab() == policies[1].tokenizer.get_vocab()


@pytest.mark.parametrize("arguments", [{}, {"source": "x", "build": TinyConfig()}], ids=["neither", "both"])
def test_exactly_one_of_source_and_build(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one of `source`"):
        Policy(**arguments)


@pytest.mark.parametrize(
    "lora", [{"rank": 4}, {"target_modules": ["no_such_layer"]}], ids=["unknown argument", "no module"]
)
def test_lora_arguments_that_do_not_fit(lora: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"policy\.lora"):
        small_policy(lora=lora)
