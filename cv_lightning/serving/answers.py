"""Answers to clients while they are being generated, and several choices for one request in parallel."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cv_lightning.rollout import Completion
from cv_lightning.serving.replies import Backend, ReplySoFar, WantedReply, wanted_reply
from cv_lightning.serving.request import ChatRequest
from cv_lightning.tools.reply_text import split_calls, stable_text
from cv_lightning.types import TokenSequence


@dataclass(frozen=True)
class Answer:
    """An answer, perhaps incomplete.

    Attributes:
        content: The text so far; later answers only extend it.
        n_output: Number of tokens that the policy has sampled for it so far.
        end: OpenAI's `finish_reason`; None while the answer is incomplete.
        calls: The tool calls, once the answer is complete.
        completion: The last turn as it was sampled, once the answer is complete.
        extra: Further keys of the choice.
    """

    content: str
    n_output: int
    end: str | None = None
    calls: Sequence[Mapping[str, Any]] = ()
    completion: Completion | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Answering(Protocol):
    """A way to answer a request."""

    def encode(self, backend: Backend, request: ChatRequest) -> TokenSequence:
        """Encode the conversation; raises `BadRequest` if it cannot be answered in this way."""

    def answer(
        self, backend: Backend, request: ChatRequest, tokens: TokenSequence, index: int
    ) -> AsyncGenerator[Answer, None]:
        """Yield choice `index` whenever it has grown, until it is complete; canceled if the reader stops."""


class OneReply:
    """Answers with one turn of the policy; the client executes its calls."""

    def encode(self, backend: Backend, request: ChatRequest) -> TokenSequence:
        """Encode the conversation."""
        return backend.encoder.encode(request)

    async def answer(
        self, backend: Backend, request: ChatRequest, tokens: TokenSequence, index: int
    ) -> AsyncGenerator[Answer, None]:
        """Yield the growing turn; calls stay part of the text unless the client offers tools."""
        wanted = wanted_reply(request, tokens, backend.max_new_tokens, index)
        async with contextlib.aclosing(pieces(backend, wanted)) as replies:
            async for reply in replies:
                if reply.end is None:
                    words = stable_text(reply.text, holds_calls=bool(request.tools))
                    yield Answer(words, reply.n_output)
                else:
                    content, calls = split_calls(reply.text) if request.tools else (reply.text, [])
                    described = [_call(name, arguments) for name, arguments in calls]
                    end = "tool_calls" if calls else reply.end
                    yield Answer(content, reply.n_output, end, described, reply.completion)


def _call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


async def pieces(backend: Backend, wanted: WantedReply, is_first: bool = True) -> AsyncGenerator[ReplySoFar, None]:
    """Yield the reply whenever it has grown, until it is complete; if the reader stops, the reply is canceled."""
    loop, is_new = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(is_new.set)

    reply = backend.start(wanted, wake, is_first)
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


class Choices:
    """Answers that are generated at the same time.

    Args:
        answers: One generator per choice.
    """

    def __init__(self, answers: Sequence[AsyncGenerator[Answer, None]]) -> None:
        self._news: asyncio.Queue[tuple[int, Answer] | Exception | None] = asyncio.Queue()
        self._n_running = len(answers)
        self._tasks = [asyncio.create_task(self._follow(index, answer)) for index, answer in enumerate(answers)]

    async def _follow(self, index: int, answers: AsyncGenerator[Answer, None]) -> None:
        news: Exception | None = None
        try:
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    self._news.put_nowait((index, answer))
        except Exception as error:  # noqa: BLE001 - the reader gets the error
            news = error
        self._news.put_nowait(news)

    async def read(self) -> tuple[int, Answer] | None:
        """The next choice that has grown, with its index; None once all have ended. Raises a failed choice's error."""
        while self._n_running:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            if news is not None:
                return news
            self._n_running -= 1
        return None

    async def whole(self) -> list[Answer]:
        """All choices, once they are complete."""
        found: dict[int, Answer] = {}
        while (news := await self.read()) is not None:
            found[news[0]] = news[1]
        return [found[index] for index in sorted(found)]

    def cancel(self) -> None:
        """Cancel the choices that are not complete."""
        for task in self._tasks:
            task.cancel()
