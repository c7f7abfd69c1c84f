"""An OpenAI-compatible server for chat completions: /v1/models and /v1/chat/completions, streamed or not.

A `PolicyBackend` writes the replies. Tool calls go back to the client as `tool_calls`: no code that a model wrote is
executed here. Every request ends in an answer, an error in OpenAI's form, or a closed connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from cv_lightning.serving.policy_backend import PolicyBackend, QueuedReply, ReplySoFar
from cv_lightning.serving.request import BadRequest, ChatRequest, read_request
from cv_lightning.serving.web_server import (
    ServerLimits,
    Stream,
    WebServer,
    error_object,
    new_app,
    read_body,
    unless_gone,
)
from cv_lightning.tools.reply_text import split_calls, stable_text


class ChatServer(WebServer):
    """Serves a backend.

    Args:
        backend: Writes the replies.
        host: Address to listen at.
        port: 0 takes a free one; see `port`.
        key: What clients must send as bearer token, None for nothing.
        limits: Limits of a client.
        on_stop: Cancels running replies before the server waits for them.

    Raises:
        OSError: The address is taken, or not allowed.
    """

    def __init__(
        self,
        backend: PolicyBackend,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        limits: ServerLimits | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._key = key
        self._started = int(time.time())
        limits = limits or ServerLimits()
        app = new_app(limits)
        router = APIRouter(dependencies=[Depends(self._check_key)])
        router.add_api_route("/health", self._health)
        router.add_api_route("/v1/models", self._models)
        router.add_api_route("/v1/models/{name:path}", self._model)
        router.add_api_route("/v1/chat/completions", self._complete, methods=["POST"], response_model=None)
        app.include_router(router)
        super().__init__(app, host, port, limits, on_stop)

    async def _check_key(self, authorization: Annotated[str, Header()] = "") -> None:
        if self._key is not None and not hmac.compare_digest(authorization.encode(), f"Bearer {self._key}".encode()):
            raise BadRequest("The API key is missing or wrong.", code="invalid_api_key", status=401)

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [await self._model(self._backend.name)]}

    async def _model(self, name: str) -> dict[str, Any]:
        self._check_model(name)
        return {"id": name, "object": "model", "created": self._started, "owned_by": "cv_lightning"}

    def _check_model(self, name: str) -> None:
        if name != self._backend.name:
            message = f"There is no model {name!r} here, only {self._backend.name!r}."
            raise BadRequest(message, "model", "model_not_found", 404)

    async def _complete(self, request: Request, body: Annotated[bytes, Depends(read_body)]) -> Response:
        asked = await run_in_threadpool(read_request, body)  # it decodes images, which others need not wait for
        self._check_model(asked.model)
        loop, is_new = asyncio.get_running_loop(), asyncio.Event()
        reply = await run_in_threadpool(self._backend.start, asked, lambda: _wake(loop, is_new))
        pieces = _pieces(reply, is_new)
        if asked.is_streamed:
            first = await unless_gone(request, anext(pieces))  # what fails at once is an error, not a stream
            return Stream(self._events(asked, reply, first, pieces), "text/event-stream", reply.cancel)
        return JSONResponse(self._completion(asked, reply, await unless_gone(request, _last(pieces))))

    def _completion(self, asked: ChatRequest, reply: QueuedReply, whole: ReplySoFar) -> dict[str, Any]:
        content, calls = _split(asked, whole.text)
        message: dict[str, Any] = {"role": "assistant", "content": content or None if calls else content}
        if calls:
            message["tool_calls"] = calls
        end = "tool_calls" if calls else whole.end
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end}
        return self._frame("chat.completion", [choice]) | {"usage": _usage(reply, whole)}

    async def _events(
        self, asked: ChatRequest, reply: QueuedReply, piece: ReplySoFar, pieces: AsyncGenerator[ReplySoFar, None]
    ) -> AsyncGenerator[str, None]:
        frame = self._frame("chat.completion.chunk", [])
        yield _chunk(frame, {"role": "assistant", "content": ""})
        n_sent = 0
        try:
            while piece.end is None:
                safe = stable_text(piece.text, holds_calls=bool(asked.tools))
                if len(safe) > n_sent:
                    yield _chunk(frame, {"content": safe[n_sent:]})
                    n_sent = len(safe)
                piece = await anext(pieces)
        except BadRequest as error:
            yield _event(error_object(error))
            return
        content, calls = _split(asked, piece.text)
        if len(content) > n_sent:
            yield _chunk(frame, {"content": content[n_sent:]})
        if calls:
            yield _chunk(frame, {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]})
        yield _chunk(frame, {}, "tool_calls" if calls else piece.end)
        if asked.counts_stream:
            yield _event(frame | {"choices": [], "usage": _usage(reply, piece)})
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._backend.name,
            "choices": choices,
        }


def _wake(loop: asyncio.AbstractEventLoop, is_new: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the server has ended
        loop.call_soon_threadsafe(is_new.set)


async def _pieces(reply: QueuedReply, is_new: asyncio.Event) -> AsyncGenerator[ReplySoFar, None]:
    """The reply whenever it has grown, until it is whole; whoever stops reading cancels it."""
    try:
        is_whole = False
        while not is_whole:
            await is_new.wait()
            is_new.clear()
            piece = reply.read()
            if piece is not None:
                is_whole = piece.end is not None
                yield piece
    finally:
        reply.cancel()


async def _last(pieces: AsyncGenerator[ReplySoFar, None]) -> ReplySoFar:
    return [piece async for piece in pieces][-1]


def _split(asked: ChatRequest, text: str) -> tuple[str, list[dict[str, Any]]]:
    """The words of a reply and its tool calls, which stay words unless the client offers tools."""
    content, calls = split_calls(text) if asked.tools else (text, [])
    return content, [
        {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]


def _chunk(frame: Mapping[str, Any], delta: Mapping[str, Any], end: str | None = None) -> str:
    return _event({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _usage(reply: QueuedReply, piece: ReplySoFar) -> dict[str, int]:
    total = reply.n_input + piece.n_output
    return {"prompt_tokens": reply.n_input, "completion_tokens": piece.n_output, "total_tokens": total}
