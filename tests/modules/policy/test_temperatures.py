"""Separate temperatures for words and tool calls: the sampler and the scorer agree on every token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from cv_lightning.types import Sample, TokenSequence, ViewedImage
from modules.grpo import GRPOModule
from modules.policy.policy import Policy
from modules.policy.temperatures import CallTokens, token_temperatures
from modules.policy.token_batch import collate
from modules.rollouts import RolloutConfig
from modules.samplers.itself import Itself
from tests.modules.helpers import noise, small_policy, train

OPEN, CLOSE = 7, 8
TAGS = CallTokens(OPEN, CLOSE)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy that often opens and closes calls."""
    policy = small_policy()
    tags = CallTokens.of(policy.tokenizer)
    logits = policy.logits

    def often_called(hidden_MD: Tensor) -> Tensor:
        logits_MV = logits(hidden_MD).clone()
        sum_M = logits_MV.logsumexp(-1).detach()
        logits_MV[..., tags.opening], logits_MV[..., tags.closing] = sum_M - 0.5, sum_M - 2
        return logits_MV

    monkeypatch.setattr(policy, "logits", often_called)
    return policy


def conversations(policy: Policy, sampling: Sampling) -> list[TokenSequence]:
    """Six conversations of two turns."""
    contexts = [policy.conversation.start(Sample("a", "Read.", (noise(56, 56),), "x")) for _ in range(6)]
    session = policy.open_session(sampling)
    for turn in range(2):
        for context, completion in zip(contexts, session.sample(contexts), strict=True):
            context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
            if turn == 0:
                assert policy.conversation.append_observation(context, "hm", ViewedImage(noise(56, 56, 1)))
    return contexts


def inside_by_hand(sequence: TokenSequence, tags: CallTokens) -> Iterator[tuple[int, bool]]:
    """The position of each trained token, and whether it is in a call, from a walk over the tokens."""
    is_inside = False
    for place, (token, is_trained) in enumerate(zip(sequence.ids, sequence.is_trained, strict=True)):
        if is_trained:
            yield place, is_inside
        is_inside = is_trained and token != tags.closing and (is_inside or token == tags.opening)


def test_a_call_lasts_from_its_tag_to_its_end_or_that_of_the_turn() -> None:
    rows: Sequence[tuple[list[int], list[int], list[int]]] = [
        # ids, trained, inside
        ([1, OPEN, 2, 3, CLOSE, 4], [1] * 6, [0, 0, 1, 1, 1, 0]),
        ([OPEN, 1, 2, OPEN, 3, 4], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]),  # a tag in the prompt opens nothing
        ([OPEN, 2, 5, 6, 3, 4], [1, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0]),  # an unclosed call, then an observation
        ([OPEN, OPEN, CLOSE, CLOSE, 2, OPEN], [1] * 6, [0, 1, 1, 0, 0, 0]),
        ([OPEN, 9], [1, 1], [0, 1]),  # padded
    ]
    batch = collate([TokenSequence(ids, list(map(bool, trained)), [0.0] * len(ids)) for ids, trained, _ in rows], 0)
    assert TAGS.inside(batch).int().tolist() == [[*inside, *[0] * (6 - len(inside))] for *_, inside in rows]
    assert token_temperatures(batch, TAGS, 1.0, 0.25)[0].tolist() == [1, 1, 0.25, 0.25, 0.25, 1]


def test_scores_are_those_of_the_distributions_that_tokens_were_drawn_from(policy: Policy) -> None:
    words, calls = 1.3, 0.6
    tags = CallTokens.of(policy.tokenizer)
    contexts = conversations(policy, Sampling(words, 16, 3, calls))
    batch = policy.collate(contexts)
    with torch.no_grad():
        temperature_BT = token_temperatures(batch, tags, words, calls)
        logprobs_BT, entropy_BT = policy.token_logprobs(batch, temperature_BT)
        logits_BTV = policy.logits(policy._scored_hidden_states(batch))
    n_inside = 0
    for row, context in enumerate(contexts):
        for place, is_inside in inside_by_hand(context, tags):
            n_inside += is_inside
            distribution = (logits_BTV[row, place - 1] / (calls if is_inside else words)).softmax(-1)
            expected = distribution[context.ids[place]].log().item()
            assert context.logprobs[place] == pytest.approx(expected, abs=1e-4)
            assert logprobs_BT[row, place].item() == pytest.approx(expected, abs=1e-4)
            entropy = torch.special.entr(distribution).sum().item()
            assert entropy_BT[row, place].item() == pytest.approx(entropy, abs=1e-3)
    assert 10 < n_inside < sum(sum(context.is_trained) for context in contexts) - 10
    gap_BT = (logprobs_BT - batch.logprobs_BT)[batch.is_trained_BT].abs()
    assert gap_BT.max() < 1e-4


def test_code_near_0_is_the_most_probable_one_and_words_vary(policy: Policy) -> None:
    tags = CallTokens.of(policy.tokenizer)
    contexts = conversations(policy, Sampling(1.0, 16, 5, 1e-4))
    batch = policy.collate(contexts)
    with torch.no_grad():
        most_probable_BT = policy.logits(policy._scored_hidden_states(batch)).argmax(-1)
    is_most_probable: dict[bool, list[bool]] = {True: [], False: []}
    for row, context in enumerate(contexts):
        for place, is_inside in inside_by_hand(context, tags):
            is_most_probable[is_inside].append(int(most_probable_BT[row, place - 1]) == context.ids[place])
    assert len(is_most_probable[True]) > 5
    assert all(is_most_probable[True])
    assert not all(is_most_probable[False])


def test_one_temperature_twice_is_one_temperature(policy: Policy) -> None:
    one, twice = (conversations(policy, Sampling(0.9, 16, 3, calls)) for calls in (None, 0.9))
    assert [c.ids for c in one] == [c.ids for c in twice]
    assert [c.logprobs for c in one] == [c.logprobs for c in twice]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_step_scores_as_it_sampled(policy: Policy, minibatches: int) -> None:
    rollout = RolloutConfig(max_turns=2, max_new_tokens=8, lane="pillow", temperature=1.2, call_temperature=0.3)
    module = GRPOModule(policy, rollout=rollout, group_size=4, minibatches=minibatches)
    trainer = train(module, [[Sample("a", "Read.", (noise(56, 56),), "x")]])
    assert trainer.callback_metrics["rl/logprob_gap"] < 1e-4
    if minibatches == 1:
        assert trainer.callback_metrics["rl/ratio"] == pytest.approx(1, abs=1e-4)
        assert trainer.callback_metrics["rl/kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("values", [{"call_temperature": 0.0}, {"call_temperature": 0.5, "temperature": 0.0}])
def test_a_temperature_without_gradient_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="call_temperature"):
        RolloutConfig(**values)  # type: ignore[arg-type]


def test_a_sampler_or_a_tokenizer_that_cannot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = RolloutConfig(call_temperature=0.5)
    policy = small_policy()
    monkeypatch.setattr(policy.tokenizer, "get_vocab", lambda: {"<tool_call>": 1})
    with pytest.raises(ConfigError, match="as one token each"):
        GRPOModule(policy, rollout=rollout)
    monkeypatch.setattr(Itself, "separates_calls", False)
    with pytest.raises(ConfigError, match="Itself samples a turn at one temperature"):
        GRPOModule(policy, rollout=rollout)
