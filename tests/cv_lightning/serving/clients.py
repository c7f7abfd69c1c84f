"""A chat server with replies that a test writes, and a client for right and wrong requests."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

from cv_lightning.conversation import format_call
from cv_lightning.rollout import Completion
from cv_lightning.serving.replies import ReplySoFar, WantedReply
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.serving.server import ChatServer
from cv_lightning.types import TokenSequence, ToolCall

CALL = format_call("Turned.", ToolCall("result = image.rotate(90, expand=True)"))


class Replies:
    """A reply in pieces; a piece of None is a wait, and a piece that is an error is raised."""

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
        """Send bytes, close our side, and read the whole response."""
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


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}]} | changes


def picture(width: int = 8, height: int = 6, kind: str = "PNG") -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def image_part(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}
