"""A server's reply, or its silence, becomes a value or one fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modules.samplers.vllm.server import Server, ServerFault, words_of

ANSWERS = {
    "/json": (200, "application/json; charset=utf-8", b'{"a": [1, 2]}'),
    "/text": (200, "text/plain", b"plain words"),
    "/broken": (200, "application/json", b'{"a": '),
    "/refused": (400, "application/json", b'{"error": {"message": "no such\\n  adapter"}}'),
    "/gone": (404, "text/html", b"<p>Not found</p>"),
    "/health": (200, "text/plain", b""),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        status, kind, content = ANSWERS[path]
        content = query.encode() if query else content
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    client = Server(f"http://127.0.0.1:{http.server_address[1]}/")
    yield client
    client.close()
    http.shutdown()
    http.server_close()


def test_json_is_read_and_text_is_text(server: Server) -> None:
    assert server.get("/json") == {"a": [1, 2]}
    assert server.post("/text", {"x": 1}) == "plain words"
    assert server.post("/text", level="1") == "level=1"
    assert server.is_healthy()


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/refused", 400, "/refused: HTTP 400: no such adapter"),
        ("/gone", 404, "/gone: HTTP 404: <p>Not found</p>"),
        ("/broken", 200, '/broken: the answer is not JSON: {"a":'),
    ],
)
def test_a_refusal_keeps_its_status_and_its_words(server: Server, path: str, status: int, words: str) -> None:
    with pytest.raises(ServerFault) as caught:
        server.get(path)
    assert caught.value.status == status
    assert str(caught.value).endswith(words)


def test_one_that_cannot_be_reached_has_no_status() -> None:
    nobody = Server("http://127.0.0.1:1")
    with pytest.raises(ServerFault, match="cannot be reached") as caught:
        nobody.get("/json", timeout_s=5.0)
    assert caught.value.status is None
    assert not nobody.is_healthy(5.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"detail": "bad"}', "bad"),
        (b'{"error": "bad"}', "bad"),
        (b'{"message": {"detail": "bad"}}', "bad"),
        (b'{"error": ""}', "{'error': ''}"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 999, "x" * 400),
        (b"[" * 5000, "[" * 400),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_words_of_any_form(content: bytes, words: str) -> None:
    assert words_of(content) == words
