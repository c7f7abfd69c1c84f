"""Sampling over turns equals Hugging Face's generation from scratch, and never samples the environment's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from cv_lightning.rollout import Completion, Sampling
from cv_lightning.types import Sample, TokenSequence, ViewedImage
from modules.policy.generation import draw
from modules.policy.policy import Policy
from tests.modules.helpers import FAMILIES, noise, small_policy


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return small_policy(request.param)


def question(index: int = 0) -> Sample:
    images = (noise(84, 84, index),) if index % 2 else (noise(120, 60, index), noise(84, 84, index + 7))
    return Sample(str(index), "Read the text." + " Please." * index, images, "x")


def speak(session: object, contexts: Sequence[TokenSequence]) -> list[Completion]:
    completions: list[Completion] = session.sample(contexts)  # type: ignore[attr-defined]
    for context, completion in zip(contexts, completions, strict=True):
        context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    return completions


def oracle(policy: Policy, context: TokenSequence, n_tokens: int) -> list[int]:
    """Greedy continuation by `generate`, which knows nothing of sessions, holes or shared prompts."""
    pixels = policy.image_processor(images=[viewed.image for viewed in context.images], return_tensors="pt")
    ids_1T = torch.tensor([context.ids])
    output = policy.model.generate(
        input_ids=ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        mm_token_type_ids=(ids_1T == policy.core.config.image_token_id).int(),
        pixel_values=pixels["pixel_values"],
        image_grid_thw=pixels["image_grid_thw"],
        do_sample=False,
        max_new_tokens=n_tokens,
        suppress_tokens=policy.is_banned_V.nonzero().flatten().tolist(),
        eos_token_id=policy.conversation.end_of_turn_id,
        pad_token_id=policy.pad_id,
    )
    found: list[int] = output[0, len(context) :].tolist()
    return found


def test_greedy_turns_are_those_of_generate(policy: Policy) -> None:
    contexts = [policy.conversation.start(question(index)) for index in (0, 1, 1, 2)]
    session = policy.open_session(Sampling(temperature=0, max_new_tokens=8))
    active = contexts
    for turn, n_active in enumerate((4, 3, 2)):
        active = active[::-1][:n_active]
        if turn:
            for index, context in enumerate(active):
                image = ViewedImage(noise(50 + 40 * index, 90, index)) if index != 1 else None
                assert policy.conversation.append_observation(context, "so" * turn * index, image)
        expected = [oracle(policy, context, 8) for context in active]
        assert [completion.ids for completion in speak(session, active)] == expected


def test_end_of_turn_ends_a_row_and_leaves_a_hole(policy: Policy) -> None:
    """Rows that stop early must not disturb the others, in this turn or the next."""
    contexts = [policy.conversation.start(question(index % 3)) for index in range(12)]
    session = policy.open_session(Sampling(temperature=1.5, max_new_tokens=40, seed=3))
    bias = torch.zeros_like(policy.is_banned_V, dtype=torch.float)
    bias[policy.conversation.end_of_turn_id] = 4.0
    plain = policy.logits
    policy.logits = lambda hidden_MD: plain(hidden_MD) + bias  # type: ignore[method-assign]
    try:
        first = speak(session, contexts)
        for context in contexts:
            assert policy.conversation.append_observation(context, "ok", None)
        speak(session, contexts)
        batch = policy.collate(contexts)
        with torch.no_grad():
            logprobs_BT, _ = policy.token_logprobs(batch, 1.5)
    finally:
        del policy.logits
    assert len({len(completion.ids) for completion in first}) > 3
    end_id = policy.conversation.end_of_turn_id
    assert all(completion.is_finished == (completion.ids[-1] == end_id) for completion in first)
    assert all(completion.is_finished or len(completion.ids) == 40 for completion in first)
    for completion in first:
        assert policy.conversation.end_of_turn_id not in completion.ids[:-1]
    torch.testing.assert_close(logprobs_BT, batch.logprobs_BT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_special_tokens_are_never_sampled_however_probable(policy: Policy, temperature: float) -> None:
    head = policy.causal.lm_head
    with torch.no_grad():
        saved = head.weight.clone()
        context = policy.conversation.start(question())
        batch = policy.collate([context])
        hidden_D = policy._scored_hidden_states(batch)[0, -1]
        head.weight[policy.is_banned_V] = 100 * hidden_D / hidden_D.norm()
        try:
            contexts = [policy.conversation.start(question()) for _ in range(16)]
            raw = head(hidden_D)
            completions = policy.open_session(Sampling(temperature, 6, seed=5)).sample(contexts)
        finally:
            head.weight.copy_(saved)
    assert policy.is_banned_V[raw.argmax()], "the model itself would write one"
    banned = set(policy.is_banned_V.nonzero().flatten().tolist())
    assert not banned & {token for completion in completions for token in completion.ids}
    assert all(logprob <= 0 for completion in completions for logprob in completion.logprobs)


def test_seed_decides(policy: Policy) -> None:
    def run(seed: int) -> list[list[int]]:
        contexts = [policy.conversation.start(question(index)) for index in (0, 0, 1)]
        return [completion.ids for completion in speak(policy.open_session(Sampling(1.0, 8, seed)), contexts)]

    assert run(4) == run(4)
    assert run(4) != run(5)
    same_prompt = run(4)[:2]
    assert same_prompt[0] != same_prompt[1], "rollouts of one prompt are drawn independently"


def test_prompts_are_computed_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[int, ...]] = []
    encoded: list[int] = []
    hidden_states, encode_images = policy.hidden_states, policy.encode_images
    monkeypatch.setattr(
        policy, "hidden_states", lambda *a, **k: (rows.append(tuple(a[0].shape)), hidden_states(*a, **k))[1]
    )
    monkeypatch.setattr(policy, "encode_images", lambda *a: (encoded.append(len(a[0])), encode_images(*a))[1])
    contexts = [policy.conversation.start(question(index)) for index in (1, 1, 1, 3, 1, 3)]
    speak(policy.open_session(Sampling(1.0, 3)), contexts)
    assert rows[0][0] == 2
    assert rows[1] == (6, 1)
    assert encoded == [2]


def test_context_budget_ends_a_turn(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = [policy.conversation.start(question(index)) for index in (1, 3)]
    longest = max(len(context) for context in contexts)
    monkeypatch.setattr(policy.conversation, "max_context_tokens", longest + 2)
    completions = speak(policy.open_session(Sampling(0.0, 20)), contexts)
    assert [len(context) for context in contexts] == [longest + 2] * 2
    assert not any(completion.is_finished for completion in completions)
    more = policy.open_session(Sampling(0.0, 20)).sample(contexts)
    assert [(completion.ids, completion.is_finished) for completion in more] == [([], False)] * 2


def test_nothing_to_sample(policy: Policy) -> None:
    assert policy.open_session(Sampling()).sample([]) == []


def test_watching_changes_no_token_and_hears_each_once(policy: Policy) -> None:
    contexts = [policy.conversation.start(question(index)) for index in (0, 1, 2)]
    sampling = Sampling(1.0, 12, seed=4)
    expected = policy.open_session(sampling).sample(contexts)
    heard: list[list[int]] = [[], [], []]

    def listen(ids_B: Sequence[int | None]) -> bool:
        for row, token in zip(heard, ids_B, strict=True):
            row.extend([] if token is None else [token])
        return True

    assert policy.open_session(sampling, listen).sample(contexts) == expected
    assert heard == [completion.ids for completion in expected]


def test_whoever_watches_may_stop_a_turn_and_it_stays_as_it_is(policy: Policy) -> None:
    contexts = [policy.conversation.start(question(index)) for index in (0, 1)]
    sampling = Sampling(1.0, 12, seed=4)
    expected = policy.open_session(sampling).sample(contexts)
    n_heard = 0

    def listen(ids_B: Sequence[int | None]) -> bool:
        nonlocal n_heard
        n_heard += 1
        return n_heard < 3

    stopped = policy.open_session(sampling, listen).sample(contexts)
    assert [completion.ids for completion in stopped] == [completion.ids[:3] for completion in expected]
    assert not any(completion.is_finished for completion in stopped)


def test_draws_have_the_probabilities_and_never_an_impossible_index() -> None:
    probabilities_V = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    found = draw(probabilities_V.expand(100_000, -1), torch.Generator().manual_seed(0))
    shares_V = found.bincount(minlength=6) / len(found)
    torch.testing.assert_close(shares_V, probabilities_V, rtol=0, atol=0.006)
    assert (shares_V[probabilities_V == 0] == 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53, 1.0])
def test_draws_at_the_ends_are_possible(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    probabilities_BV = torch.tensor([[0.0, 0.7, 0.3, 0.0]])
    assert draw(probabilities_BV, torch.Generator()).tolist() == [1 if uniform == 0 else 2]


def test_closed_rows_leave_the_batch(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows: list[int] = []
    step = type(policy.open_session(Sampling(1.0, 1)))._step
    session = policy.open_session(Sampling(temperature=1.5, max_new_tokens=40, seed=3))
    monkeypatch.setattr(type(session), "_step", lambda self, ids, *a: (n_rows.append(len(ids)), step(self, ids, *a))[1])
    bias = torch.zeros_like(policy.is_banned_V, dtype=torch.float)
    bias[policy.conversation.end_of_turn_id] = 4.0
    plain = policy.logits
    monkeypatch.setattr(policy, "logits", lambda hidden_MD: plain(hidden_MD) + bias)
    done = speak(session, [policy.conversation.start(question(index % 3)) for index in range(12)])
    n_open = [sum(len(each.ids) > n for each in done) for n in range(1, 40)]
    assert n_rows[0] == 12
    assert all(n <= rows < 1.5 * n + 1 for rows, n in zip(n_rows, n_open, strict=False))


def test_a_turn_collates_and_copies_what_is_new(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    collate = policy.collate
    monkeypatch.setattr(policy, "collate", lambda s: (shapes.append((len(s), max(map(len, s)))), collate(s))[1])
    contexts = [policy.conversation.start(question(index)) for index in (0, 0, 1)]
    session = policy.open_session(Sampling(temperature=0, max_new_tokens=4))
    n_prompt = max(map(len, contexts))
    speak(session, contexts)
    layers = session._cache.layers
    before = [len(context) for context in contexts]
    for context in contexts:
        assert policy.conversation.append_observation(context, "ok", ViewedImage(noise()))
    n_new = max(len(context) - n for context, n in zip(contexts, before, strict=True))
    speak(session, contexts)
    assert shapes == [(2, n_prompt), (3, n_new)]
    assert session._cache.layers is layers, "no column is free, so no key moves"
