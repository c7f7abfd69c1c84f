"""Conversations through a fake server: requests, replies, and every fault on the way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from cv_lightning.errors import EngineError
from cv_lightning.rollout import Completion
from modules.policy.policy import Policy
from modules.samplers.vllm.engine import Place
from tests.modules.helpers import small_policy
from tests.modules.samplers.vllm import fake
from tests.modules.samplers.vllm.fake import FAULTS, FakeServer, sampled
from tests.modules.samplers.vllm.helpers import SHORT, contexts_of, converse, engine_of, session_of

#: Faults that end the rollout, with parts of their messages; all other faults pass.
FATAL = {"other_prompt": "prompt_token_ids", "refused": "--max-model-len"}
PASSING = [fault for fault in FAULTS if fault not in FATAL]


@cache
def policy() -> Policy:
    return small_policy()


@cache
def unbroken() -> list[list[Completion]]:
    with FakeServer() as server:
        return converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy()))


def test_turns_are_what_the_server_sampled(server: FakeServer) -> None:
    contexts = contexts_of(policy())
    said = converse(session_of(engine_of(policy(), server), policy()), policy(), contexts)
    turns = [request for request in server.requests if request["sampling_params"]["max_tokens"] > 1]
    assert len(turns) == 8
    assert len({request["sampling_params"]["seed"] for request in turns}) == 8
    expected = Counter(tuple(sampled(request["sampling_params"], [])) for request in turns)
    assert Counter(tuple(completion.ids) for each in said for completion in each) == expected
    for completion in (completion for each in said for completion in each):
        assert completion.logprobs == [-token / 1024 for token in completion.ids]
        assert completion.is_finished == (completion.ids[-1] == policy().conversation.end_of_turn_id)
        assert completion.versions == [1] * len(completion.ids)
    assert all(request["sampling_params"]["logit_bias"] == {"1": -100.0, "2": -100.0} for request in turns)


def test_a_seed_gives_the_same_turns_again() -> None:
    with FakeServer() as server:
        again = converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy()))
    assert again == unbroken()
    with FakeServer() as server:
        other = converse(session_of(engine_of(policy(), server), policy(), seed=4), policy(), contexts_of(policy()))
    assert other != unbroken()


def test_each_image_is_sent_once(server: FakeServer) -> None:
    engine = engine_of(policy(), server)
    converse(session_of(engine, policy()), policy(), contexts_of(policy(), each=4))
    sent = Counter(
        part["uuid"] for request in server.requests for part in request.get("content_parts", ()) if "url" in part
    )
    assert len(sent) == 3 + 2  # the images of the questions, and the two results, which conversations share
    questions = {engine.images.name(viewed) for context in contexts_of(policy()) for viewed in context.images}
    assert {name: number for name, number in sent.items() if name in questions} == dict.fromkeys(questions, 1)
    n_before = len(server.requests)
    converse(session_of(engine, policy()), policy(), contexts_of(policy(), each=1), n_turns=1)
    assert not [part for each in server.requests[n_before:] for part in each["content_parts"] if "url" in part]


def test_images_have_the_size_at_which_the_policy_sees_them(server: FakeServer) -> None:
    converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy()))
    assert set(server.images.values()) == {
        policy().patcher.target(size) for size in ((84, 84), (120, 60), (60, 90), (90, 90))
    }


def test_a_forgotten_image_is_sent_again(server: FakeServer) -> None:
    engine = engine_of(policy(), server)
    first = converse(session_of(engine, policy()), policy(), contexts_of(policy()))
    server.images.clear()
    assert converse(session_of(engine, policy()), policy(), contexts_of(policy())) == first


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_changes_nothing(server: FakeServer, fault: str) -> None:
    server.faults.extend([fault, fault])
    said = converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy()))
    assert said == unbroken()
    assert not server.faults


@pytest.mark.parametrize("fault", FATAL)
def test_a_fault_that_stays_ends_the_rollout_with_its_remedy(server: FakeServer, fault: str) -> None:
    server.faults.append(fault)
    with pytest.raises(EngineError, match=FATAL[fault]):
        converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy()))


def test_failures_are_repeated_so_often_and_no_more(server: FakeServer) -> None:
    server.faults.extend(["500"] * 50)
    with pytest.raises(EngineError, match=r"HTTP 500: .*\(3 attempts\)"):
        converse(session_of(engine_of(policy(), server), policy()), policy(), contexts_of(policy(), each=1)[:1])
    assert len(server.requests) == 3


def test_a_server_that_stays_away_is_waited_for_so_long_and_no_longer() -> None:
    with FakeServer() as server:
        engine = engine_of(policy(), server)
    engine.patience = replace(SHORT, away_s=0.4)
    with pytest.raises(EngineError, match=r"cannot be reached .* for 0.4 s"):
        converse(session_of(engine, policy()), policy(), contexts_of(policy())[:1])


def test_a_server_without_the_weights_is_waited_for(server: FakeServer) -> None:
    engine = engine_of(policy(), server, patience=replace(SHORT, away_s=0.4))
    server.version = "default"
    with pytest.raises(EngineError, match=r"expected weights 'run-1', got \['default'\]"):
        converse(session_of(engine, policy()), policy(), contexts_of(policy())[:1])


def test_a_hung_server_is_complained_about(server: FakeServer) -> None:
    complaints: list[Place] = []
    engine = engine_of(policy(), server, complain=complaints.append)
    server.faults.append("hangs")
    converse(session_of(engine, policy()), policy(), contexts_of(policy())[:1])
    assert [place.url for place in complaints] == [server.url]


def test_a_server_that_always_hangs_is_given_up(server: FakeServer) -> None:
    server.faults.extend(["hangs"] * 50)
    engine = engine_of(policy(), server, patience=replace(SHORT, turn_s=0.05))
    with pytest.raises(EngineError, match=r"no reply within 0.05 s \(3 attempts\)"):
        converse(session_of(engine, policy()), policy(), contexts_of(policy(), each=1)[:1])
    assert len(server.requests) == 3


def test_an_engine_that_was_given_up_is_not_waited_for(server: FakeServer) -> None:
    engine = engine_of(policy(), server)
    engine.fault = EngineError("it ended too often")
    server.faults.append("killed")
    with pytest.raises(EngineError, match="too often"):
        converse(session_of(engine, policy()), policy(), contexts_of(policy())[:1])


def test_a_conversation_stays_with_its_server_and_leaves_one_that_is_gone() -> None:
    with FakeServer() as first, FakeServer() as second:
        said = converse(session_of(engine_of(policy(), first, second), policy()), policy(), contexts_of(policy()))
        prompts = [{tuple(request["token_ids"][:20]) for request in server.requests} for server in (first, second)]
        assert prompts[0]
        assert prompts[1]
        assert not prompts[0] & prompts[1]
        assert said == unbroken()
    with FakeServer() as living:
        engine = engine_of(policy(), living)
        engine.places.insert(0, Place(first.url))
        assert converse(session_of(engine, policy()), policy(), contexts_of(policy())) == unbroken()


def test_requests_are_in_flight_together(server: FakeServer) -> None:
    server.together = 8
    patience = replace(SHORT, turn_s=60.0)
    converse(
        session_of(engine_of(policy(), server, patience=patience), policy()), policy(), contexts_of(policy(), each=4)
    )
    assert server.most_running == 8


def test_no_room_for_a_turn_is_an_empty_one(server: FakeServer) -> None:
    session = session_of(engine_of(policy(), server), policy())
    (context,) = contexts_of(policy(), each=1)[:1]
    context.append([7] * (policy().conversation.max_context_tokens - len(context)), is_trained=False)
    assert asyncio.run(session.sample(context)) == Completion([], [], False)
    assert not server.requests


class Seen(list[int]):
    """Collects the tokens, and cuts the turn after `n` of them."""

    def __init__(self, n: int = 1000) -> None:
        super().__init__()
        self.n = n

    def __call__(self, row: Sequence[int | None]) -> bool:
        self.extend(token for token in row if token is not None)
        return len(self) < self.n


def test_a_reader_sees_each_token_and_may_cut_a_turn(server: FakeServer) -> None:
    engine, seen = engine_of(policy(), server), Seen(2)
    whole = asyncio.run(session_of(engine, policy()).sample(contexts_of(policy())[0]))
    assert len(whole.ids) > 3
    server.token_s = 0.2
    cut = asyncio.run(session_of(engine, policy(), seen).sample(contexts_of(policy())[0]))
    assert seen == cut.ids == whole.ids[:2]
    assert (cut.logprobs, cut.is_finished, cut.versions) == (whole.logprobs[:2], False, None)
    assert server.n_streamed < len(whole.ids), "the server was told to stop"


@pytest.mark.parametrize("fault", PASSING)
def test_a_turn_that_breaks_off_is_shown_once(server: FakeServer, fault: str) -> None:
    server.faults.extend([fault, fault])
    seen = Seen()
    said = asyncio.run(session_of(engine_of(policy(), server), policy(), seen).sample(contexts_of(policy())[0]))
    assert said == unbroken()[0][0]
    assert seen == said.ids
    assert not server.faults


def test_a_turn_that_was_shown_is_not_replaced_by_another(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults.append("half")
    replies = iter([[10, 11, 12, 13], [10, 14, 15, 16]])
    monkeypatch.setattr(fake, "sampled", lambda parameters, prompt: next(replies))
    session = session_of(engine_of(policy(), server), policy(), Seen())
    with pytest.raises(EngineError, match="broke off a turn"):
        asyncio.run(session.sample(contexts_of(policy())[0]))


def test_a_cancelled_turn_ends_at_once(server: FakeServer) -> None:
    server.faults.append("hangs")
    session = session_of(engine_of(policy(), server, patience=replace(SHORT, turn_s=60.0)), policy())

    async def give_up() -> float:
        task = asyncio.create_task(session.sample(contexts_of(policy())[0]))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.close()
        return time.monotonic() - started

    assert asyncio.run(give_up()) < 5.0
