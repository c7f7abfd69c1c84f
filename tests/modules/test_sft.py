"""The loss is the mean over the trained tokens of the whole batch, however it is split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from cv_lightning.errors import ConversationError, DataError
from cv_lightning.types import Trajectory, Turn
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.sft import SFTModule
from tests.modules.helpers import FAMILIES, assert_same_gradients, episodes, gradients, small_policy, train


class Watched(SFTModule):
    """Keeps the gradients of every step and does not take the step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[dict[str, torch.Tensor]] = []

    def apply_gradients(self) -> dict[str, torch.Tensor | float]:
        self.seen.append(gradients(self.policy))
        self.policy.zero_grad()
        return {}


def one_step(
    policy: Policy, batch: Sequence[Trajectory], micro_batch_tokens: int
) -> tuple[dict[str, torch.Tensor], float]:
    module = Watched(policy, micro_batch_tokens=micro_batch_tokens)
    trainer = train(module, [batch])
    return module.seen[0], float(trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_mean_over_trained_tokens_in_any_split(family: str) -> None:
    policy, batch = small_policy(family), episodes()
    sequences = [policy.conversation.encode(trajectory) for trajectory in batch]
    assert len({len(sequence) for sequence in sequences}) > 2
    total, n_trained = torch.zeros(()), 0
    for sequence in sequences:
        total = total - policy.token_logprobs(policy.collate([sequence]))[0].sum()
        n_trained += sum(sequence.is_trained)
    loss = total / n_trained
    loss.backward()
    expected = gradients(policy)
    policy.zero_grad()
    assert 3 < loss.item() < 12, "a random policy is about as good as guessing"
    assert abs(loss.item() - math.log(len(policy.tokenizer))) < 3
    for micro_batch_tokens in (0, 1, 300, 10_000):
        found, logged = one_step(policy, batch, micro_batch_tokens)
        assert logged == pytest.approx(loss.item(), abs=1e-5)
        assert_same_gradients(found, expected)


def test_turns_that_are_not_trained_do_not_count() -> None:
    policy, batch = small_policy(), episodes()
    recovered = next(episode for episode in batch if any(not turn.is_trained for turn in episode.turns))
    sequence = policy.conversation.encode(recovered)
    n_written = sum(
        len(policy.tokenizer.encode(turn.text, add_special_tokens=False)) + 1
        for turn in recovered.turns
        if turn.is_trained
    )
    assert sum(sequence.is_trained) == n_written
    logprobs_BT, _ = policy.token_logprobs(policy.collate([sequence]))
    assert (logprobs_BT != 0).sum() == n_written


def test_it_learns_a_batch_by_heart() -> None:
    module = SFTModule(small_policy(), optimizer=OptimizerConfig(name="muon", lr=5e-3))
    losses: list[float] = []
    measured = module.measured
    module.measured = lambda own, of_all: (losses.append(float(of_all["train/loss"])), measured(own, of_all))[1]  # type: ignore[method-assign]
    train(module, [episodes(2)] * 40)
    assert losses[-1] < 0.5 * losses[0]


def test_two_runs_give_the_same_numbers() -> None:
    weights = []
    for _ in range(2):
        policy = small_policy()
        train(SFTModule(policy, optimizer=OptimizerConfig(lr=1e-3), micro_batch_tokens=200), [episodes()] * 3)
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.cat([p.detach().flatten() for p in small_policy().parameters()]))


def test_conversation_without_assistant_turn_is_named() -> None:
    empty = Trajectory(replace(episodes()[0].sample, id="row-7"))
    with pytest.raises(DataError, match=r"'row-7'.*no assistant turn"):
        train(SFTModule(small_policy()), [[empty]])


@pytest.mark.parametrize("token", ["<|image_pad|>", "<tool_response>", "<|im_start|>"])
def test_assistant_turn_with_the_environments_tokens_is_named(token: str) -> None:
    first = episodes()[0]
    turn = Turn(f"<think>{token}</think><answer>x</answer>", first.turns[-1].reply)
    bad = Trajectory(replace(first.sample, id="row-8"), [turn])
    with pytest.raises(DataError, match=r"'row-8'.*only the environment writes"):
        train(SFTModule(small_policy()), [[first, bad]])


def test_conversation_that_is_too_long_is_named() -> None:
    with pytest.raises(ConversationError, match="max_context_tokens=40"):
        train(SFTModule(small_policy(max_context_tokens=40)), [episodes()])
