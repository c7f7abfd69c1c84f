"""A local server whose replies a test chooses, and questions for it."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.types import Sample, Trajectory

SETTINGS = {"temperature": 0, "max_tokens": 8}
HELLO = [{"role": "user", "content": "hello"}]


def completion(text: str | None = "hi", calls: list[dict[str, Any]] | None = None, end: str = "stop") -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls is not None:
        message["tool_calls"] = calls
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return json.dumps({"choices": [{"message": message, "finish_reason": end}], "usage": usage}).encode()


def call(code: str, call_id: str = "c1", **arguments: Any) -> dict[str, Any]:
    function = {"name": "code_image_tool", "arguments": json.dumps({"code": code, **arguments})}
    return {"id": call_id, "type": "function", "function": function}


def error(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "type": "x"}}).encode()


Reply = Callable[[BaseHTTPRequestHandler], None]


def says(body: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def cuts(handler: BaseHTTPRequestHandler) -> None:
    """Send the first 40 of 1000 announced bytes, then nothing."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion()[:40])


def vanishes(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.6)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Send bytes slowly, but with no pause as long as a socket timeout."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


class Server:
    """Gives its replies in order, then repeats the last reply."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [says(completion())]
        self.listed: dict[str, Any] = {"data": [{"id": "listed"}]}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                says(json.dumps(outer.listed).encode())(self)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.headers.append({name.title(): value for name, value in self.headers.items()})
                    outer.times.append(time.monotonic())
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                self._is_counted = True
                try:
                    reply(self)
                except OSError:
                    pass  # the client hung up, as in tests of timeouts
                finally:
                    self._leave()

            def send_response(self, *arguments: Any) -> None:
                self._leave()  # before the client gets the reply, because it may ask again at once
                super().send_response(*arguments)

            def _leave(self) -> None:
                with lock:
                    outer.at_once -= getattr(self, "_is_counted", False)
                    self._is_counted = False

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def endpoint(self, **changes: Any) -> Endpoint:
        return Endpoint(self.url, **({"model": "m", "timeout_s": 5.0, "max_wait_s": 0.05} | changes))


def pixels(url: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sample(name: str = "a") -> Sample:
    return Sample(name, f"What is <tool_call> here, in {name}?", (noise(40, 30),), "x", ("rotate_90",))


def solve(server: Server, n: int = 1, endpoint: dict[str, Any] | None = None, **changes: Any) -> list[Any]:
    solver = EndpointSolver(server.endpoint(**(endpoint or {})), **({"lane": "pillow"} | changes))
    try:
        return solver.solve([sample(str(index)) for index in range(n)])
    finally:
        solver.close()


def one(solved: list[Trajectory | None]) -> Trajectory:
    (trajectory,) = solved
    assert trajectory is not None
    return trajectory
