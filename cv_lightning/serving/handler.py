"""One connection of the chat server: HTTP and JSON in, HTTP and JSON or a stream of events out."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cv_lightning.serving.backend import Progress, Running
from cv_lightning.serving.http_handler import JsonHandler, error_object
from cv_lightning.serving.request import BadRequest, ChatRequest, read_request
from cv_lightning.tools.reply_text import split_calls, stable_text

if TYPE_CHECKING:
    from cv_lightning.serving.server import ChatServer

#: How often a waiting connection is asked whether its client is still there.
_POLL_S = 0.25

_PATHS = {"/v1/chat/completions": "POST", "/v1/models": "GET", "/health": "GET"}


class ChatHandler(JsonHandler):
    """Answers the requests of one connection."""

    server: ChatServer

    def route(self, method: str) -> None:
        """Answer /v1/models, /v1/chat/completions and /health."""
        path = self.path.partition("?")[0].rstrip("/")
        body = self.read_body() if method == "POST" else b""
        if self.server.key is not None:
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self.server.key}".encode()):
                raise BadRequest("The API key is missing or wrong.", code="invalid_api_key", status=401)
        if path == f"/v1/models/{self.server.backend.name}" and method == "GET":
            self.send_json(200, self._model())
        elif path not in _PATHS:
            raise BadRequest(f"There is no {path!r} here, only {', '.join(_PATHS)}.", code="not_found", status=404)
        elif method != _PATHS[path]:
            raise BadRequest(f"{path} wants {_PATHS[path]}.", code="method_not_allowed", status=405)
        elif path == "/health":
            self.send_json(200, {"status": "ok"})
        elif path == "/v1/models":
            self.send_json(200, {"object": "list", "data": [self._model()]})
        else:
            self._complete(body)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.server.backend.name,
            "object": "model",
            "created": self.server.started,
            "owned_by": "cv_lightning",
        }

    # ---- completions -------------------------------------------------------------------------------------------------

    def _complete(self, body: bytes) -> None:
        request = read_request(body)
        if request.model != self.server.backend.name:
            raise BadRequest(
                f"There is no model {request.model!r} here, only {self.server.backend.name!r}.",
                "model",
                "model_not_found",
                404,
            )
        running = self.server.backend.start(request)
        try:
            if request.is_streamed:
                self._stream(request, running)
            else:
                self._send_whole(request, running)
        except BaseException:
            running.cancel()
            raise

    def _wait(self, running: Running) -> Progress:
        """What is new of a reply.

        Raises:
            ConnectionError: The client has gone.
        """
        while (progress := running.poll(_POLL_S)) is None:
            self.check_client()
        return progress

    def _send_whole(self, request: ChatRequest, running: Running) -> None:
        while (progress := self._wait(running)).end is None:
            pass
        content, calls = split_calls(progress.text) if request.tools else (progress.text, [])
        message: dict[str, Any] = {"role": "assistant", "content": content or None if calls else content}
        if calls:
            message["tool_calls"] = _tool_calls(calls)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "tool_calls" if calls else progress.end,
        }
        reply = self._frame("chat.completion", [choice])
        self.send_json(200, reply | {"usage": _usage(running, progress)})

    def _stream(self, request: ChatRequest, running: Running) -> None:
        progress = self._wait(running)  # what fails at once is an error, not a stream
        self.begin_stream("text/event-stream")
        frame = self._frame("chat.completion.chunk", [])
        self._send_chunk(frame, {"role": "assistant", "content": ""})
        sent = 0
        try:
            while progress.end is None:
                safe = stable_text(progress.text, holds_calls=bool(request.tools))
                if len(safe) > sent:
                    self._send_chunk(frame, {"content": safe[sent:]})
                    sent = len(safe)
                progress = self._wait(running)
        except BadRequest as error:
            self._send_event(error_object(error))
            return
        content, calls = split_calls(progress.text) if request.tools else (progress.text, [])
        if len(content) > sent:
            self._send_chunk(frame, {"content": content[sent:]})
        if calls:
            deltas = [{"index": index, **call} for index, call in enumerate(_tool_calls(calls))]
            self._send_chunk(frame, {"tool_calls": deltas})
        self._send_chunk(frame, {}, "tool_calls" if calls else progress.end)
        if request.counts_stream:
            self._send_event(frame | {"choices": [], "usage": _usage(running, progress)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.server.backend.name,
            "choices": choices,
        }

    def _send_chunk(self, frame: Mapping[str, Any], delta: Mapping[str, Any], end: str | None = None) -> None:
        self._send_event({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})

    def _send_event(self, content: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()


def _tool_calls(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]


def _usage(running: Running, progress: Progress) -> dict[str, int]:
    total = running.n_input + progress.n_output
    return {"prompt_tokens": running.n_input, "completion_tokens": progress.n_output, "total_tokens": total}
