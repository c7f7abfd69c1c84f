"""A small policy behind the real server, asked by real clients."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor

from cv_lightning.conversation import format_answer, format_call
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.evaluation.questions import RobustnessDataModule
from cv_lightning.rollout import Completion
from cv_lightning.serving.policy_backend import Batching, PolicyBackend
from cv_lightning.serving.server import ChatServer
from cv_lightning.tools.code import CODE_SCHEMA
from cv_lightning.types import Sample, StopReason, TokenSequence, ToolCall
from modules.evaluate import LocalSolver, RobustnessTest
from modules.policy.generation import GenerationSession
from modules.policy.policy import Policy
from modules.rollouts import RolloutConfig
from tests.modules.helpers import noise

WORLD = PlateWorld(width=84, height=84)


def force_first_reply(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Conversations with one image get `text` as their next reply, in letters, as no tokenizer would split it.

    Later turns are sampled by the policy, and depend on the exact tokens of this reply.
    """
    sample, draw = GenerationSession.sample, GenerationSession._draw

    def watched_sample(self: Any, contexts: Sequence[TokenSequence]) -> list[Completion]:
        self.forced = [_letters(self.network, text) if len(c.images) == 1 else [] for c in contexts]
        return sample(self, contexts)

    def forced_draw(self: Any, hidden_BD: Tensor, is_inside_B: Tensor) -> tuple[Tensor, Tensor]:
        ids_B, logprobs_B = draw(self, hidden_BD, is_inside_B)
        forced = [self.forced[row] for row in self._rows]  # rows whose turn has ended are not drawn
        rows = [ids.pop(0) if ids else drawn for ids, drawn in zip(forced, ids_B.tolist(), strict=True)]
        return torch.tensor(rows), logprobs_B

    monkeypatch.setattr(GenerationSession, "sample", watched_sample)
    monkeypatch.setattr(GenerationSession, "_draw", forced_draw)


def _letters(policy: Policy, text: str) -> list[int]:
    pieces = re.findall(r"</?[a-z_]+>|.|\n", text)
    ids = [i for piece in pieces for i in policy.tokenizer.encode(piece, add_special_tokens=False)]
    return [*ids, policy.conversation.end_of_turn_id]


@contextlib.contextmanager
def serve(policy: Policy, **settings: Any) -> Iterator[tuple[PolicyBackend, str]]:
    """A server of a policy, and its address."""
    backend = PolicyBackend(policy, "small", **settings)
    server = ChatServer(backend, port=0, on_stop=backend.close)
    serving = threading.Thread(target=server.serve, daemon=True)
    serving.start()
    try:
        yield backend, f"http://127.0.0.1:{server.port}/v1"
    finally:
        server.stop()
        serving.join(60)


@pytest.fixture(scope="module")
def url(policy: Policy) -> Iterator[str]:
    with serve(policy, max_new_tokens=400) as (_, url):
        yield url


def data_url(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def asked(url: str, **changes: Any) -> Any:
    image = {"type": "image_url", "image_url": {"url": data_url(noise())}}
    content = [image, {"type": "text", "text": "Read the text."}]
    body = {"model": "small", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 12}
    return post(f"{url}/chat/completions", body | changes)


def post(url: str, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def solver_of(url: str, tools: str, **changes: Any) -> EndpointSolver:
    endpoint = Endpoint(url, attempts=2, api_key_variable=None)
    arguments = {
        "tools": tools,
        "system_prompt": "Read.",
        "max_turns": 3,
        "max_new_tokens": 24,
        "announce_sizes": False,
    }
    return EndpointSolver(endpoint, **(arguments | changes))


def samples() -> list[Sample]:
    return [WORLD.sample("test", index, transforms) for index in range(2) for transforms in ((), ("rotate_90",))]


CALL = format_call("Turned.", ToolCall("result = image.rotate(270, expand=True)", "turn", 0))


@pytest.mark.parametrize("tools", ["text", "native"])
def test_the_same_trajectories_as_the_local_policy(
    policy: Policy, url: str, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _letters(policy, CALL) != policy.tokenizer.encode(CALL, add_special_tokens=False), "else nothing is proven"
    force_first_reply(monkeypatch, CALL)
    local = LocalSolver(policy, RolloutConfig(max_turns=3, max_new_tokens=400))
    # `tools` add their description to a system message, as in Qwen's template; without one, the policy's own stays.
    remote = solver_of(url, tools, max_new_tokens=400, system_prompt="Read." if tools == "text" else "")
    expected, given = local.solve(samples()), remote.solve(samples())
    local.close()
    remote.close()
    for mine, theirs in zip(expected, given, strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.turns[0].text == CALL
        assert len(mine.turns) > 1
        assert [turn.text for turn in theirs.turns] == [turn.text for turn in mine.turns]
        assert [viewed.orientation for viewed in theirs.images] == [viewed.orientation for viewed in mine.images]
        # If the prompt asks for no tags, a reply without tags is the answer.
        same_end = theirs.stop_reason == mine.stop_reason
        assert same_end or (tools, theirs.stop_reason) == ("native", StopReason.ANSWERED)
    counts = remote.usage()
    assert counts["requests"] == sum(len(t.turns) for t in given if t is not None)
    assert counts["input_tokens"] > 0
    assert counts["output_tokens"] > 0


def test_the_same_table_as_the_local_policy(
    policy: Policy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_first_reply(monkeypatch, format_answer("Read.", "A"))
    local = LocalSolver(policy, RolloutConfig(max_turns=2, max_new_tokens=100))
    tables = []
    for name, solver in {"local": local, "remote": solver_of(url, "text", max_new_tokens=100)}.items():
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path / name)
        data = RobustnessDataModule(source=Guessable(), n_questions=3, batch_size=7)
        trainer.test(RobustnessTest(solver), datamodule=data)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        tables.append({key: value for key, value in metrics.items() if not key.startswith("test/usage/")})
    assert tables[0] == tables[1]
    assert tables[0]["test/n/vflip"] == 3
    assert tables[0]["test/accuracy/vflip"] == pytest.approx(2 / 3)


class Guessable(PlateWorld):
    """Plates whose answer is A or B."""

    def sample(self, split: Any, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """A plate in the size of the small policy, with answer B for index 1 and A for all others."""
        sample = WORLD.sample(split, index, transforms)
        return replace(sample, answer="B" if index == 1 else "A", alternatives=())


def test_an_image_of_an_impossible_shape_is_refused(url: str) -> None:
    line = {"type": "image_url", "image_url": {"url": data_url(noise(2000, 2))}}
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(url, messages=[{"role": "user", "content": [line]}])
    assert caught.value.code == 400


# --- batches, seeds, streams ---


def test_requests_at_the_same_time_share_a_batch(policy: Policy) -> None:
    batching = Batching(max_batch=4, window_s=0.5)
    with serve(policy, max_new_tokens=6, batching=batching) as (backend, url), ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: asked(url), range(8)))
    assert list(backend.batch_sizes) == [4, 4]
    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1


def test_a_full_queue_answers_429_and_clients_come_back(policy: Policy) -> None:
    batching = Batching(max_batch=1, window_s=0, max_waiting=1)
    messages = [{"role": "user", "content": "hi"}]
    with serve(policy, max_new_tokens=12, batching=batching) as (_, url), ThreadPoolExecutor(8) as pool:
        endpoint = Endpoint(url, api_key_variable=None, attempts=20, max_wait_s=0.05)
        replies = list(pool.map(lambda _: endpoint.chat(messages, {"temperature": 0}).text, range(8)))
    assert len(set(replies)) == 1
    assert endpoint.usage.requests == 8
    assert endpoint.usage.retries > 0


def test_a_seed_repeats_and_its_absence_does_not(url: str) -> None:
    def text(**changes: Any) -> str:
        return str(asked(url, temperature=1.0, **changes)["choices"][0]["message"]["content"])

    assert text(seed=3) == text(seed=3)
    assert len({text() for _ in range(4)}) > 1
    assert len({text(seed=seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("tools", [[], [CODE_SCHEMA]])
def test_a_stream_says_what_the_whole_reply_says(url: str, tools: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    force_first_reply(monkeypatch, CALL)
    settings = {"tools": tools, "max_tokens": 400}
    whole = asked(url, **settings)
    assert whole["choices"][0]["finish_reason"] == ("tool_calls" if tools else "stop")
    message = whole["choices"][0]["message"]
    if tools:
        (call,) = message["tool_calls"]
        assert message["content"] == "<think>Turned.</think>"
        assert call["function"]["name"] == "code_image_tool"
        assert json.loads(call["function"]["arguments"])["code"] == "result = image.rotate(270, expand=True)"
    else:
        assert message["content"] == CALL
    chunks = streamed(url, **settings, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    # The number of pieces depends on timing: a slow reader gets several tokens at once.
    assert sum(bool(delta.get("content")) for delta in deltas) > 1, "it comes in pieces"
    functions = [[c["function"] for c in d["tool_calls"]] for d in deltas if "tool_calls" in d]
    assert functions == ([[c["function"] for c in message["tool_calls"]]] if tools else [])
    ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert ends == [None] * (len(ends) - 1) + [whole["choices"][0]["finish_reason"]]
    assert chunks[-1]["usage"] == whole["usage"]


def streamed(url: str, **changes: Any) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(noise())}}
    content = [image, {"type": "text", "text": "Read the text."}]
    messages = [{"role": "user", "content": content}]
    body = {"model": "small", "messages": messages, "temperature": 0, "stream": True} | changes
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        events = [line.removeprefix(b"data: ").strip() for line in response if line.strip()]
    assert events[-1] == b"[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_a_client_that_leaves_stops_the_generation(policy: Policy) -> None:
    policy.conversation.max_context_tokens, limit = 100_000, policy.conversation.max_context_tokens
    try:
        with serve(policy, max_new_tokens=100_000) as (backend, url):
            body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "seed": 1}).encode()
            head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))) as client:
                client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
                while not backend.batch_sizes:
                    time.sleep(0.01)
            started = time.monotonic()
            asked(url, max_tokens=2)
            assert time.monotonic() - started < 5
    finally:
        policy.conversation.max_context_tokens = limit


def test_a_full_context_is_told_by_openais_code(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(url, messages=[{"role": "user", "content": "many words " * 1000}])
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]["code"] == "context_length_exceeded"


def test_a_failing_generation_is_an_error_and_the_server_goes_on(
    policy: Policy, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "logits", lambda *_: 1 / 0)
        with pytest.raises(urllib.error.HTTPError) as caught:
            asked(url)
        assert caught.value.code == 500
        assert "ZeroDivision" not in caught.value.read().decode()
    assert "ZeroDivisionError" in caplog.text
    assert asked(url)["usage"]["completion_tokens"] == 12
