"""What a client gets for its request, while it is being written, and the choices of a request side by side."""

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
        content: Its words so far; what is there stays.
        n_output: Tokens that the policy wrote for it so far.
        end: OpenAI's `finish_reason`; None while it is being written.
        calls: The tool calls, once it has ended.
        completion: The last turn as it was sampled, once it has ended.
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
        """The conversation; raises `BadRequest` if it cannot be answered in this way."""

    def answer(
        self, backend: Backend, request: ChatRequest, tokens: TokenSequence, index: int
    ) -> AsyncGenerator[Answer, None]:
        """Choice `index` whenever it has grown, until it has ended; whoever stops reading cancels it."""


class OneReply:
    """Answers with one turn of the policy; its calls are for the client to execute."""

    def encode(self, backend: Backend, request: ChatRequest) -> TokenSequence:
        """The conversation."""
        return backend.encoder.encode(request)

    async def answer(
        self, backend: Backend, request: ChatRequest, tokens: TokenSequence, index: int
    ) -> AsyncGenerator[Answer, None]:
        """The turn while it is written; calls stay words unless the client offers tools."""
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
    """The reply whenever it has grown, until it is whole; whoever stops reading cancels it."""
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
    """Answers that are written at the same time.

    Args:
        answers: One for each choice.
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
        except Exception as error:  # noqa: BLE001 - whoever reads gets it
            news = error
        self._news.put_nowait(news)

    async def read(self) -> tuple[int, Answer] | None:
        """The next choice that has grown, by its index; None once all have ended. Raises what a choice raised."""
        while self._n_running:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            if news is not None:
                return news
            self._n_running -= 1
        return None

    async def whole(self) -> list[Answer]:
        """All choices once they have ended."""
        found: dict[int, Answer] = {}
        while (news := await self.read()) is not None:
            found[news[0]] = news[1]
        return [found[index] for index in sorted(found)]

    def cancel(self) -> None:
        """End those that are still being written."""
        for task in self._tasks:
            task.cancel()
