"""An engine behind the real chat server, and behind `chat`; the engine's server is fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError, OpenAI, RateLimitError

from cv_lightning.chat import command as chat_command
from cv_lightning.rollout import Sampling
from cv_lightning.serving.engine_backend import EngineBackend
from cv_lightning.serving.replies import WantedReply
from cv_lightning.serving.request import BadRequest
from cv_lightning.serving.server import ChatServer
from cv_lightning.types import Sample
from modules.policy.policy import Policy
from modules.samplers.vllm.session import Speaker
from tests.modules.helpers import noise
from tests.modules.samplers.vllm.fake import FakeServer, sampled
from tests.modules.samplers.vllm.helpers import SHORT, engine_of, pids_of

MESSAGES: Any = [{"role": "user", "content": "Read the text."}]


@contextmanager
def serving(policy: Policy, engine: FakeServer, **settings: Any) -> Iterator[OpenAI]:
    """A client of a chat server in front of an engine."""
    speaker = Speaker(policy, engine_of(policy, engine, patience=replace(SHORT, turn_s=60.0)))
    backend = EngineBackend(speaker, "small", **settings)
    server = ChatServer(backend, port=0, on_stop=backend.close)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        server.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert not [one for one in threading.enumerate() if one.name == "generation"]


def words(policy: Policy, engine: FakeServer) -> str:
    """The text that the engine sampled for the last request."""
    parameters = engine.requests[-1]["sampling_params"]
    return policy.conversation.decode_reply(sampled(parameters, []))


def ask(client: OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=12, **changes)


def test_a_reply_is_what_the_engine_sampled_and_a_seed_repeats_it(policy: Policy, engine: FakeServer) -> None:
    with serving(policy, engine) as client:
        first, again, other = (ask(client, seed=seed, temperature=1.0) for seed in (3, 3, 4))
        assert other.choices[0].message.content == words(policy, engine)
    assert first.choices[0].message.content == again.choices[0].message.content != other.choices[0].message.content
    assert first.usage.completion_tokens == len(sampled(engine.requests[0]["sampling_params"], []))


def test_a_stream_shows_tokens_while_they_are_sampled(policy: Policy, engine: FakeServer) -> None:
    with serving(policy, engine) as client:
        engine.token_s = 0.1
        seen = []
        for chunk in ask(client, seed=3, temperature=1.0, stream=True):
            if chunk.choices[0].delta.content:
                seen.append((chunk.choices[0].delta.content, engine.n_streamed))
        assert "".join(text for text, _ in seen) == words(policy, engine)
    n_tokens = len(sampled(engine.requests[0]["sampling_params"], []))
    assert seen[0][1] < n_tokens, "the first words are there before the last token"


def test_replies_are_under_way_together(policy: Policy, engine: FakeServer) -> None:
    engine.together = 6
    with serving(policy, engine) as client, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: ask(client, seed=seed), range(6)))
    assert engine.most_running == 6


def test_a_full_engine_turns_requests_away(policy: Policy, engine: FakeServer) -> None:
    engine.is_paused = True
    with serving(policy, engine, max_waiting=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client)
        while not engine.requests:
            time.sleep(0.01)
        with pytest.raises(RateLimitError):
            ask(client)
        engine.is_paused = False
        assert first.result().choices


def test_a_stop_text_ends_the_sampling(policy: Policy, engine: FakeServer) -> None:
    with serving(policy, engine) as client:
        whole = ask(client, seed=3, temperature=1.0).choices[0].message.content
        engine.token_s, engine.n_streamed = 0.2, 0
        cut = ask(client, seed=3, temperature=1.0, stop=[whole[2:4]])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (whole[: whole.find(whole[2:4])], "stop")
    assert engine.n_streamed < len(sampled(engine.requests[0]["sampling_params"], []))


def test_a_temperature_that_the_engine_lacks_is_the_clients_mistake(policy: Policy, engine: FakeServer) -> None:
    backend = EngineBackend(Speaker(policy, engine_of(policy, engine)), "small")
    wanted = WantedReply(policy.conversation.start(Sample("a", "What?", (noise(),), "")), Sampling(3.0))
    is_there = threading.Event()
    reply = backend.start(wanted, is_there.set)
    assert is_there.wait(60)
    with pytest.raises(BadRequest, match=r"at most 2, which is vLLM's limit"):
        reply.read()
    backend.close()


def test_an_engine_that_fails_is_an_error_of_one_request(policy: Policy, engine: FakeServer) -> None:
    with serving(policy, engine) as client:
        engine.faults.extend(["500"] * SHORT.attempts)
        with pytest.raises(InternalServerError, match="could not be generated"):
            ask(client)
        assert ask(client).choices[0].message.content == words(policy, engine)


def test_the_end_of_the_server_ends_replies(policy: Policy, engine: FakeServer) -> None:
    engine.is_paused = True
    with ThreadPoolExecutor(1) as pool:
        with serving(policy, engine) as client:
            waiting = pool.submit(ask, client)
            while not engine.requests:
                time.sleep(0.01)
        with pytest.raises(Exception, match=r"shutting down|Connection error"):
            waiting.result()


def test_a_backend_that_closes_tells_each_reply_and_may_be_closed_again(policy: Policy, engine: FakeServer) -> None:
    engine.is_paused = True
    backend = EngineBackend(Speaker(policy, engine_of(policy, engine, patience=replace(SHORT, turn_s=60.0))), "small")
    conversation = policy.conversation.start(Sample("a", "What?", (noise(),), ""))
    replies = [backend.start(WantedReply(conversation.copy(), Sampling(1.0, 8, seed)), list) for seed in range(3)]
    while not engine.requests:
        time.sleep(0.01)
    backend.close()
    backend.close()
    for reply in replies:
        with pytest.raises(BadRequest, match="shutting down"):
            reply.read()
    with pytest.raises(BadRequest, match="shutting down"):
        backend.start(WantedReply(conversation, Sampling(1.0, 8, 0)), list)


def test_chat_asks_an_engine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise().save("image.png")
    arguments = [
        "What?",
        "--image",
        "image.png",
        "--policy",
        "policy",
        "--engine",
        f"{here}/vllm",
        "--max-context-tokens",
    ]
    chat_command.main([*arguments, "600", "--max-new-tokens", "12", "--lane", "pillow", "--temperature", "1"])
    assert "no answer" in capsys.readouterr().out
    (log,) = here.glob("runs/engine/*/server-0.log")
    assert "fake server" in log.read_text()
    assert not pids_of(here)
