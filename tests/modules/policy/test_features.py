"""Features of a frozen tower are computed once per image of a step, and no result changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from modules.policy import features
from modules.policy.network import Network
from modules.policy.policy import Policy
from tests.modules.helpers import gradients, sampled_conversations, small_policy


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each call of the vision tower."""
    calls: list[int] = []
    plain = Network._encoded

    def watched(self: Network, images_N: Sequence[Image.Image]) -> Any:
        calls.append(len(images_N))
        return plain(self, images_N)

    monkeypatch.setattr(Network, "_encoded", watched)
    return calls


def scores(policy: Policy) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    batch = policy.pack(sampled_conversations(policy))
    logprobs_BT, _ = policy(batch)
    logprobs_BT.sum().backward()
    found = gradients(policy)
    policy.zero_grad()
    return logprobs_BT.detach(), policy.reference_logprobs(batch), found


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_images_are_encoded_once_in_a_step(family: str, encoded: list[int]) -> None:
    policy = small_policy(family, frozen=["vision", "projector"])
    policy.freeze_reference()
    plain = scores(policy)
    assert sum(encoded) == 18, "six in the rollout, six in the update, six for the reference"
    encoded.clear()
    with policy.kept_features():
        kept = scores(policy)
        assert encoded == [3, 2, 1], "those of each turn"
    assert torch.equal(kept[0], plain[0])
    assert torch.equal(kept[1], plain[1])
    assert all(torch.equal(kept[2][name], value) for name, value in plain[2].items())
    scores(policy)
    assert sum(encoded) == 6 + 18, "nothing is kept outside"


def test_a_trained_tower_is_asked_again(encoded: list[int]) -> None:
    policy = small_policy(frozen=["projector"])
    policy.freeze_reference()
    with policy.kept_features():
        scores(policy)
    assert sum(encoded) == 18


def test_what_exceeds_the_limit_is_encoded_again(encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_MAX_BYTES", 0)
    policy = small_policy(frozen=["vision", "projector"])
    policy.freeze_reference()
    with policy.kept_features():
        scores(policy)
    assert sum(encoded) == 18
