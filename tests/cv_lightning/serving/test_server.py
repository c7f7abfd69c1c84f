"""What the chat server does with clients, right and wrong ones; a test writes the replies."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.conversation import format_call
from cv_lightning.rollout import Completion
from cv_lightning.serving.replies import ReplySoFar, WantedReply
from cv_lightning.serving.request import BadRequest, ChatRequest, read_request
from cv_lightning.serving.server import ChatServer
from cv_lightning.serving.web_server import ServerLimits
from cv_lightning.tools.code import CODE_SCHEMA
from cv_lightning.tools.reply_text import join_calls, split_calls, stable_text
from cv_lightning.types import TokenSequence, ToolCall

CALL = format_call("Turned.", ToolCall("result = image.rotate(90, expand=True)"))


class Replies:
    """A reply in pieces; a piece that is None takes time, and an error is raised."""

    def __init__(self, pieces: list[Any], notify: Callable[[], None]) -> None:
        self.is_cancelled = False
        self._pieces = pieces
        self._notify = notify
        self._text = ""
        self._n = 0
        notify()

    def read(self) -> ReplySoFar | None:
        piece = self._pieces.pop(0) if self._pieces else None
        if isinstance(piece, BadRequest):
            raise piece
        threading.Timer(0.02 if piece is None else 0, self._notify).start()
        if piece is None:
            return None
        self._n += 1
        self._text += piece
        return ReplySoFar(
            self._text, self._n, None if self._pieces else Completion([1] * self._n, [-1.0] * self._n, True)
        )

    def cancel(self) -> None:
        self.is_cancelled = True


class Fake:
    name = "fake"
    max_new_tokens = 100

    def __init__(self) -> None:
        self.encoder = self
        self.pieces: list[Any] = ["hel", "lo"]
        self.requests: list[ChatRequest] = []
        self.running: list[Replies] = []

    def encode(self, request: ChatRequest) -> TokenSequence:
        self.requests.append(request)
        return TokenSequence([0] * 7, [False] * 7, [0.0] * 7)

    def start(self, wanted: WantedReply, notify: Callable[[], None], is_first: bool = True) -> Replies:
        if self.pieces and isinstance(self.pieces[0], BadRequest):
            raise self.pieces[0]
        self.running.append(Replies(list(self.pieces), notify))
        return self.running[-1]


class Client:
    def __init__(self, **settings: Any) -> None:
        self.backend = Fake()
        self.server = ChatServer(self.backend, port=0, **settings)
        self._serving = threading.Thread(target=self.server.serve, daemon=True)
        self._serving.start()

    def raw(self, data: bytes) -> bytes:
        """Send bytes, close our side, read all that comes."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def ask(
        self, method: str = "POST", path: str = "/v1/chat/completions", body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def close(self) -> None:
        self.server.stop()
        self._serving.join(10)
        assert not self._serving.is_alive()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(limits=ServerLimits(request_megabytes=1, read_s=0.5))
    yield client
    client.close()


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}]} | changes


def picture(width: int = 8, height: int = 6, kind: str = "PNG") -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def image_part(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


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


def test_a_connection_serves_several_requests(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=10)
    for _ in range(3):
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body()).encode(), {"Content-Type": "application/json"}
        )
        assert json.loads(connection.getresponse().read())["choices"]
    connection.close()


def test_a_reply_is_not_held_back_for_an_acknowledgement(client: Client) -> None:
    """Head and body are two writes: without TCP_NODELAY the second waits 40 ms for the client's acknowledgement."""
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=10)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
    connection.close()
    assert min(seconds[1:]) < 0.03


def test_images_and_calls_of_a_request_are_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Read."}]},
        {"role": "user", "content": [image_part(picture()), {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "words", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    request = read_request(json.dumps(body(messages=messages, max_completion_tokens=5, seed=3)).encode())
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert [image.size for image in request.messages[1].images] == [(8, 6)]
    assert request.messages[2].text == 'words\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert (request.max_new_tokens, request.seed, request.temperature) == (5, 3, 1.0)


def test_an_image_of_a_request_is_upright_as_its_exif_tag_says() -> None:
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    stored = Image.radial_gradient("L").convert("RGB").crop((0, 0, 90, 60))
    stored.save(buffer, "PNG", exif=exif)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "text", "text": "Which?"}, image_part(url), {"type": "text", "text": "This."}]
    request = read_request(json.dumps(body(messages=[{"role": "user", "content": content}])).encode())
    first, image, last = request.messages[0].parts
    assert (first, last) == ("Which?", "This."), "images stay between the words"
    assert isinstance(image, Image.Image)
    assert image.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_places_in_the_text_of_a_request_are_those_of_its_images() -> None:
    pictures = [image_part(picture(8, 6)), image_part(picture(10, 6))]

    def parts(text: str) -> list[Any]:
        content = [*pictures, {"type": "text", "text": text}]
        request = read_request(json.dumps(body(messages=[{"role": "user", "content": content}])).encode())
        return [part if isinstance(part, str) else part.size for part in request.messages[0].parts]

    monday = ["Which? ", (8, 6), " is Monday, ", (10, 6), " is Friday"]
    assert parts("Which? <image> is Monday, <image> is Friday") == monday
    assert parts("What does <image> mean in HTML?") == [(8, 6), (10, 6), "What does <image> mean in HTML?"]


# --- wrong requests ---


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "gpt-4o"}, "no model 'gpt-4o'"),
        ({"messages": []}, "messages: .*at least 1"),
        ({"messages": "hi"}, "messages: .*array"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages\\[0\\].role"),
        ({"messages": ["hi"]}, "messages\\[0\\]: .*object|dictionary"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages\\[0\\].content"),
        ({"messages": [{"role": "user"}]}, "messages\\[0\\].content"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "last one must be"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "only the first"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content\\[0\\].type: .*text"),
        ({"messages": [{"role": "user", "content": [image_part("http://10.0.0.1/x.png")]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part("file:///etc/passwd")]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part(None)]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part("data:image/png;base64,@@@")]}]}, "base64"),
        ({"messages": [{"role": "user", "content": [image_part("data:image/png;base64,aGk=")]}]}, "image"),
        ({"messages": [{"role": "user", "content": [image_part(picture()[:90])]}]}, "image|base64"),
        ({"messages": [{"role": "user", "content": [image_part(picture(11_000, 10_000))]}]}, "megapixels"),
        ({"messages": [{"role": "user", "content": [image_part(picture(9_000, 9_000))] * 3}]}, "together"),
        ({"messages": [{"role": "user", "content": [image_part(picture())] * 65}]}, "more than 64 images"),
        ({"messages": [{"role": "assistant", "tool_calls": 3}, {"role": "user", "content": "a"}]}, "tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}, {"role": "user", "content": "a"}]}, "tool_calls"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "hex escape"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n: .*greater than or equal to 1"),
        ({"n": 129}, "n: .*less than or equal to 128"),
        ({"n": 1.5}, "n: "),
        ({"top_p": 0.5}, "top_p: this server only knows 1"),
        ({"top_p": 2, "temperature": 0}, "top_p"),
        ({"stop": ""}, "stop\\[0\\]: .*at least 1"),
        ({"stop": ["x"] * 17}, "stop: .*at most 16"),
        ({"stop": 3}, "stop"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs: this server only knows 0"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"tools": "all"}, "tools"),
        ({"tools": [CODE_SCHEMA], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client: Client, wrong: dict[str, Any], words: str) -> None:
    status, reply = client.ask(body=body(**wrong))
    assert status == (404 if "model" in wrong else 400)
    assert reply["error"]["type"] == "invalid_request_error"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(reply["error"]["message"])
    assert not client.backend.requests


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 50_000, b'"hi"', b"NaN"])
def test_what_is_no_request_is_refused(client: Client, data: bytes) -> None:
    status, reply = client.ask(body=data)
    assert status == 400
    assert reply["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("PUT", "/v1/models", 405)],
)
def test_other_paths_and_methods(client: Client, method: str, path: str, status: int) -> None:
    answered, reply = client.ask(method, path, body={} if method != "GET" else None)
    assert answered == status
    assert reply["error"]["code"]


def test_other_types_of_body_are_refused(client: Client) -> None:
    assert client.ask(body=body(), Content_Type="text/plain")[0] == 415


def test_a_body_that_is_too_large_is_told_so(client: Client) -> None:
    status, reply = client.ask(body=b"x" * (3 << 20))
    assert (status, reply["error"]["code"]) == (413, "request_too_large")


def test_a_body_without_a_length_is_refused(client: Client) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 411 " in client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert b" 400 " in client.raw(head + b"Content-Length: -5\r\n\r\n")


@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01\x02\x00", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"x" * 70_000 + b"\r\n"]
)
def test_what_is_no_http_ends_with_the_connection(client: Client, data: bytes) -> None:
    client.raw(data)
    assert client.ask("GET", "/health")[0] == 200


def test_half_a_request_and_a_silent_client_are_let_go(client: Client) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    assert client.raw(head + b'{"model"') == b""
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=10) as connection:
        connection.sendall(head)
        started = time.monotonic()
        assert connection.recv(100) == b""
        assert time.monotonic() - started < 5
    assert client.ask("GET", "/health")[0] == 200


def test_too_many_connections_are_turned_away() -> None:
    client = Client(limits=ServerLimits(connections=2, read_s=5))
    held = [socket.create_connection(("127.0.0.1", client.server.port)) for _ in range(2)]
    time.sleep(0.1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.ask("GET", "/health")
    for connection in held:
        connection.close()
    time.sleep(0.1)
    assert client.ask("GET", "/health")[0] == 200
    client.close()


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
    deadline = time.monotonic() + 5
    while not client.backend.running[0].is_cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.backend.running[0].is_cancelled


def test_ctrl_c_ends_what_is_under_way_and_gives_the_port_back(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Fake()
    backend.pieces = ["a", *[None] * 10_000, "b"]

    def stop() -> None:
        backend.running[0]._pieces = [BadRequest("The server is shutting down.", code="unavailable", status=503)]

    server = ChatServer(backend, port=0, on_stop=stop)
    found: list[Any] = []

    def ask_and_interrupt() -> None:
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        request = urllib.request.Request(
            url, json.dumps(body(stream=True)).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            found.append(response.readline())
            os.kill(os.getpid(), signal.SIGINT)
            found.append(response.read())

    client = threading.Thread(target=ask_and_interrupt)
    client.start()
    started = time.monotonic()
    server.serve_until_interrupted()
    client.join()
    assert time.monotonic() - started < 20
    assert b"unavailable" in found[1]
    assert capsys.readouterr().err == "stopped\n"
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_a_mistake_of_the_backend_is_an_error_without_its_words(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Replies:
        raise RuntimeError("/home/somebody/policy")

    monkeypatch.setattr(client.backend, "start", broken)
    status, reply = client.ask(body=body())
    assert (status, reply["error"]["type"]) == (500, "server_error")
    assert "somebody" not in json.dumps(reply)
    deadline = time.monotonic() + 10
    while "somebody" not in caplog.text:  # it is logged once the client was answered
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- calls as text ---

WORDS = st.text(st.sampled_from('ab \n<>/{}"tool_call'), max_size=30)


@given(WORDS, st.dictionaries(WORDS, WORDS, max_size=3))
def test_a_call_survives_the_way_to_the_client_and_back(thought: str, arguments: dict[str, str]) -> None:
    if "<think>" in thought or "</tool_call>" in json.dumps(arguments):
        return
    payload = json.dumps({"name": "code_image_tool", "arguments": arguments}, ensure_ascii=False)
    text = f"<think>{thought}</think>\n<tool_call>\n{payload}\n</tool_call>"
    content, calls = split_calls(text)
    assert [(name, json.loads(given)) for name, given in calls] == [("code_image_tool", arguments)]
    assert join_calls(content, calls) == text


@pytest.mark.parametrize(
    "text",
    [
        "no call",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}',
        '<think><tool_call>{"name": "f", "arguments": {}}</tool_call></think> hm',
        '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>x</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert split_calls(text) == (text, [])


PIECES = st.lists(st.sampled_from(["a", "\n", "<", "<tool_call>", "<tool_", "\ufffd"]), max_size=12).map("".join)


@given(PIECES, st.booleans())
def test_what_was_streamed_is_never_taken_back(text: str, holds_calls: bool) -> None:
    """A replacement character at the end of what is there so far is a letter of which bytes are missing."""
    whole = text.replace("\ufffd", "\u00e9")
    for call in ("", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'):
        content = split_calls(whole + call)[0] if holds_calls else whole + call
        for end in range(len(whole) + 1):
            assert content.startswith(stable_text(whole[:end], holds_calls))
            assert content.startswith(stable_text(whole[:end] + "\ufffd", holds_calls))
