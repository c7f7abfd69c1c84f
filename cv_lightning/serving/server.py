"""An OpenAI-compatible server for chat completions: /v1/models and /v1/chat/completions, with or without streaming.

A `Backend` generates the replies. Tool calls are returned to the client as `tool_calls`, or executed by the confined
executor of a `ToolLoop`. Every request ends in an answer, an error in OpenAI's form, or a closed connection.
"""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from cv_lightning.serving.answers import Answer, Answering, Choices, OneReply
from cv_lightning.serving.replies import Backend
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


class ChatServer(WebServer):
    """Serves a backend.

    Args:
        backend: Generates the replies.
        host: Address to listen at.
        port: 0 for a free port; see `port`.
        key: Bearer token that clients must send; None for no token.
        limits: Limits of a client.
        on_stop: Cancels unfinished replies before the server waits for them.
        answering: How a request is answered; by default with one turn, whose calls the client executes.

    Raises:
        OSError: The address is in use, or not allowed.
    """

    def __init__(
        self,
        backend: Backend,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        limits: ServerLimits | None = None,
        on_stop: Callable[[], None] = lambda: None,
        answering: Answering | None = None,
    ) -> None:
        self._backend = backend
        self._answering = answering or OneReply()
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
        asked = await run_in_threadpool(read_request, body)  # it decodes images; other requests need not wait for that
        self._check_model(asked.model)
        tokens = await run_in_threadpool(self._answering.encode, self._backend, asked)
        answers = [self._answering.answer(self._backend, asked, tokens, index) for index in range(asked.n)]
        choices = Choices(answers)
        try:
            if asked.is_streamed:
                first = await unless_gone(request, choices.read())  # an immediate failure is an error, not a stream
                events = self._events(asked, len(tokens), first, choices)
                return Stream(events, "text/event-stream", choices.cancel)
            whole = await unless_gone(request, choices.whole())
        except BaseException:
            choices.cancel()
            raise
        listed = [self._choice(asked, index, answer) for index, answer in enumerate(whole)]
        n_output = sum(answer.n_output for answer in whole)
        return JSONResponse(self._frame("chat.completion", listed) | {"usage": _usage(len(tokens), n_output)})

    def _choice(self, asked: ChatRequest, index: int, answer: Answer) -> dict[str, Any]:
        content = answer.content
        message: dict[str, Any] = {"role": "assistant", "content": content or None if answer.calls else content}
        if answer.calls:
            message["tool_calls"] = answer.calls
        logprobs = self._logprobs(asked, answer)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.end, **answer.extra}

    def _logprobs(self, asked: ChatRequest, answer: Answer) -> dict[str, Any] | None:
        """The sampled tokens in OpenAI's form, without the end-of-turn token."""
        if not asked.has_logprobs or answer.completion is None:
            return None
        encoder, sampled = self._backend.encoder, answer.completion
        end_id = encoder.conversation.end_of_turn_id
        drawn = [pair for pair in zip(sampled.ids, sampled.logprobs, strict=True) if pair[0] != end_id]
        return {"content": [_token(encoder.decode([token]), logprob) for token, logprob in drawn], "refusal": None}

    async def _events(
        self, asked: ChatRequest, n_input: int, news: tuple[int, Answer] | None, choices: Choices
    ) -> AsyncGenerator[str, None]:
        frame = self._frame("chat.completion.chunk", [])
        for index in range(asked.n):
            yield _chunk(frame, index, {"role": "assistant", "content": ""})
        n_sent, n_output = [0] * asked.n, [0] * asked.n
        try:
            while news is not None:
                index, answer = news
                delta = {"content": answer.content[n_sent[index] :]} if len(answer.content) > n_sent[index] else {}
                n_sent[index], n_output[index] = max(n_sent[index], len(answer.content)), answer.n_output
                if delta or (answer.extra and answer.end is None):
                    yield _chunk(frame, index, delta, **(answer.extra if answer.end is None else {}))
                if answer.calls:
                    calls = [{"index": number, **call} for number, call in enumerate(answer.calls)]
                    yield _chunk(frame, index, {"tool_calls": calls})
                if answer.end is not None:
                    logprobs = self._logprobs(asked, answer)
                    also = {} if logprobs is None else {"logprobs": logprobs}
                    yield _chunk(frame, index, {}, answer.end, **also, **answer.extra)
                news = await choices.read()
        except BadRequest as error:
            choices.cancel()
            yield _event(error_object(error))
            return
        if asked.counts_stream:
            yield _event(frame | {"choices": [], "usage": _usage(n_input, sum(n_output))})
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._backend.name,
            "choices": choices,
        }


def _token(text: str, logprob: float) -> dict[str, Any]:
    # A token may be only a part of a letter, which has no text.
    encoded = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": encoded, "top_logprobs": []}


def _chunk(frame: Mapping[str, Any], index: int, delta: Mapping[str, Any], end: str | None = None, **extra: Any) -> str:
    return _event({**frame, "choices": [{"index": index, "delta": delta, "finish_reason": end, **extra}]})


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _usage(n_input: int, n_output: int) -> dict[str, int]:
    return {"prompt_tokens": n_input, "completion_tokens": n_output, "total_tokens": n_input + n_output}
