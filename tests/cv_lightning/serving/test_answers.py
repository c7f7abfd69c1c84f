"""`stop`, `n` and `logprobs` as a client of OpenAI's sees them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from cv_lightning.conversation import Conversation
from cv_lightning.rollout import Sampling
from cv_lightning.serving.policy_backend import Batching
from cv_lightning.types import TokenSequence
from tests.cv_lightning.scripted import a_conversation
from tests.cv_lightning.serving.spoken import Spoken, serving
from tests.modules.helpers import small_policy

HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return a_conversation()


def by_seed(context: TokenSequence, seed: int) -> str:
    return f"one two {seed} two"


@pytest.fixture(scope="module")
def client(conversation: Conversation) -> Iterator[openai.OpenAI]:
    with serving(Spoken(conversation, by_seed)) as (client, _):
        yield client


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(**{"model": "spoken", "messages": HI, "temperature": 1, "seed": 5, **changes})


def streamed(client: openai.OpenAI, n: int = 1, **changes: Any) -> list[str]:
    texts, ends = [""] * n, [0] * n
    for chunk in ask(client, n=n, stream=True, **changes):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason is not None
    assert ends == [1] * n
    return texts


@pytest.mark.parametrize(
    ("stop", "text", "n_tokens"),
    [
        ("two", "one ", 7),
        (["5", " two"], "one", 7),
        (["never", "o"], "", 1),
        (["t", "tw"], "one ", 5),
        (["two 6", "x"], "one two 5 two", 14),
        (None, "one two 5 two", 14),
    ],
)
def test_a_reply_ends_before_the_first_stop_text(client: openai.OpenAI, stop: Any, text: str, n_tokens: int) -> None:
    reply = ask(client, stop=stop)
    assert reply.choices[0].message.content == text
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == n_tokens
    assert streamed(client, stop=stop) == [text]


def test_a_stop_text_of_one_reply_does_not_end_its_batch(conversation: Conversation) -> None:
    policy = Spoken(conversation, lambda context, seed: "one two three")
    with (
        serving(policy, batching=Batching(max_batch=2, window_s=2)) as (client, _),
        ThreadPoolExecutor(2) as pool,
    ):
        asked = [pool.submit(ask, client, seed=None, stop=stop) for stop in ("two", None)]
        replies = [one.result() for one in asked]
    assert [reply.choices[0].message.content for reply in replies] == ["one ", "one two three"]
    assert [reply.usage.completion_tokens for reply in replies] == [7, 14]


def test_n_replies_have_their_own_seeds(client: openai.OpenAI) -> None:
    reply = ask(client, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    expected = [f"one two {seed} two" for seed in (5, 6, 7)]
    assert [choice.message.content for choice in reply.choices] == expected
    assert reply.usage.completion_tokens == 3 * 14
    assert streamed(client, n=3) == expected
    unseeded = ask(client, n=3, seed=None)
    assert len({choice.message.content for choice in unseeded.choices}) > 1


def test_more_replies_than_may_wait_are_turned_away_whole(conversation: Conversation) -> None:
    policy = Spoken(conversation, by_seed)
    with serving(policy, batching=Batching(max_batch=1, window_s=0.2, max_waiting=2)) as (client, _):
        with pytest.raises(openai.RateLimitError):
            ask(client, n=8)
        assert ask(client).choices[0].message.content == "one two 5 two"


def test_logprobs_are_those_of_the_drawn_tokens(client: openai.OpenAI) -> None:
    found = ask(client, logprobs=True).choices[0].logprobs.content
    assert "".join(token.token for token in found) == "one two 5 two"
    assert [token.logprob for token in found] == [-float(n) for n in range(13)]
    assert bytes(found[0].bytes) == b"o"
    assert found[0].top_logprobs == []
    assert [len(token.token) for token in ask(client, logprobs=True, stop="two").choices[0].logprobs.content] == [1] * 7
    assert ask(client).choices[0].logprobs is None
    chunks = [choice for chunk in ask(client, logprobs=True, stream=True) for choice in chunk.choices]
    pieces = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content]
    assert [token.logprob for token in pieces] == [-float(n) for n in range(13)]


def test_logprobs_of_a_model_are_those_of_its_own_sampling() -> None:
    policy = small_policy()
    with serving(policy) as (client, _):
        reply = ask(client, temperature=0, seed=None, max_tokens=6, logprobs=True)
    (completion,) = policy.open_session(Sampling(0.0, 6)).sample([_prompt(policy)])
    given = [token.logprob for token in reply.choices[0].logprobs.content]
    assert given == pytest.approx(completion.logprobs[: len(given)], abs=1e-5)
    assert len(given) == 6


def _prompt(policy: Any) -> TokenSequence:
    tokens = TokenSequence()
    conversation = policy.conversation
    tokens.append(conversation.system_turn(conversation.system_prompt), is_trained=False)
    tokens.append([*conversation.user_turn(["hi"]), *conversation.opening()], is_trained=False)
    return tokens


def test_any_top_p_is_right_for_the_most_probable_token(client: openai.OpenAI) -> None:
    assert ask(client, temperature=0, top_p=0.1).choices[0].message.content == "one two 0 two"
    with pytest.raises(openai.BadRequestError, match="temperature 0"):
        ask(client, top_p=0.1)
