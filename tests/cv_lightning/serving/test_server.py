"""The chat server with right and wrong requests; a test writes the replies."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from cv_lightning.serving.request import BadRequest
from cv_lightning.tools.code import CODE_SCHEMA
from tests.cv_lightning.serving.clients import CALL, Client, Replies, body

# --- right requests ---


def test_models_and_health(client: Client) -> None:
    status, listed = client.ask("GET", "/v1/models")
    assert (status, [model["id"] for model in listed["data"]]) == (200, ["fake"])
    assert client.ask("GET", "/v1/models/fake")[1]["object"] == "model"
    assert client.ask("GET", "/health") == (200, {"status": "ok"})


def test_a_reply_has_openais_form(client: Client) -> None:
    status, reply = client.ask(body=body())
    assert status == 200
    assert (reply["object"], reply["model"]) == ("chat.completion", "fake")
    (choice,) = reply["choices"]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": "hello"}, "stop")
    assert reply["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def test_calls_are_text_until_tools_are_offered(client: Client) -> None:
    client.backend.pieces = [CALL]
    assert client.ask(body=body())[1]["choices"][0]["message"]["content"] == CALL
    choice = client.ask(body=body(tools=[CODE_SCHEMA]))[1]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "<think>Turned.</think>"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "code_image_tool")
    assert json.loads(call["function"]["arguments"])["code"].startswith("result =")
    assert client.ask(body=body(tools=[CODE_SCHEMA], tool_choice="none"))[1]["choices"][0]["finish_reason"] == "stop"


# --- wrong requests ---


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("PUT", "/v1/models", 405)],
)
def test_other_paths_and_methods(client: Client, method: str, path: str, status: int) -> None:
    answered, reply = client.ask(method, path, body={} if method != "GET" else None)
    assert answered == status
    assert reply["error"]["code"]


def test_the_key_is_asked_for() -> None:
    client = Client(key="secret")
    assert client.ask(body=body())[0] == 401
    assert client.ask(body=body(), Authorization="Bearer wrong")[0] == 401
    assert client.ask("GET", "/v1/models")[0] == 401
    assert client.ask(body=body(), Authorization="Bearer secret")[0] == 200
    client.close()


# --- streams ---


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line]
    return [json.loads(line) if line != "[DONE]" else line for line in lines]


def test_a_stream_comes_in_pieces_and_holds_calls_back(client: Client) -> None:
    client.backend.pieces = [CALL[i : i + 3] for i in range(0, len(CALL), 3)]
    found = events(client.ask(body=body(stream=True, tools=[CODE_SCHEMA]))[1])
    assert found[-1] == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in found[:-1]]
    words = [delta["content"] for delta in deltas if delta.get("content")]
    assert "".join(words) == "<think>Turned.</think>"
    assert len(words) > 3
    (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert json.loads(calls[0]["function"]["arguments"])["image_index"] == 0
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_stream_that_fails_says_so(client: Client) -> None:
    client.backend.pieces = ["hel", BadRequest("broken", status=500, code="generation_failed")]
    found = events(client.ask(body=body(stream=True))[1])
    assert found[-1]["error"]["code"] == "generation_failed"
    client.backend.pieces = [BadRequest("full", status=429, code="rate_limit_exceeded")]
    assert client.ask(body=body(stream=True))[0] == 429


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_cancels_its_reply(client: Client, is_streamed: bool) -> None:
    client.backend.pieces = ["a", *[None] * 1000, "b"]
    data = json.dumps(body(stream=is_streamed)).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port)) as connection:
        connection.sendall(head.encode() + data)
        while not client.backend.running:
            time.sleep(0.01)
    deadline = time.monotonic() + 60
    while not client.backend.running[0].is_cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.backend.running[0].is_cancelled


def test_a_mistake_of_the_backend_is_an_error_without_its_words(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Replies:
        raise RuntimeError("/home/somebody/policy")

    monkeypatch.setattr(client.backend, "start", broken)
    status, reply = client.ask(body=body())
    assert (status, reply["error"]["type"]) == (500, "server_error")
    assert "somebody" not in json.dumps(reply)
    deadline = time.monotonic() + 60
    while "somebody" not in caplog.text:  # it is logged after the reply to the client
        assert time.monotonic() < deadline
        time.sleep(0.01)
