"""Replies of a policy while they are being generated, by any backend."""

from __future__ import annotations

import queue
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cv_lightning.conversation import Conversation
from cv_lightning.rollout import Completion, Sampling
from cv_lightning.serving.encoding import ChatEncoder
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.types import TokenSequence


@dataclass(frozen=True)
class ReplySoFar:
    """A reply, perhaps incomplete.

    Attributes:
        text: The text so far that will not change.
        n_output: Its number of tokens so far.
        completion: The sampled tokens, once it is complete; may be longer than `text` if that ends at a stop text.
    """

    text: str
    n_output: int
    completion: Completion | None = None

    @property
    def end(self) -> str | None:
        """OpenAI's `finish_reason`; None while the reply is incomplete."""
        return None if self.completion is None else "stop" if self.completion.is_finished else "length"


@dataclass(frozen=True)
class WantedReply:
    """A reply to generate.

    Attributes:
        tokens: The conversation.
        sampling: How the reply is sampled.
        is_alone: Whether it is sampled alone, because the client gave a seed and one seed applies to a whole batch.
        is_streamed: Whether the client reads the reply while it is generated.
        stop: The reply ends before the first of these texts.
    """

    tokens: TokenSequence
    sampling: Sampling
    is_alone: bool = False
    is_streamed: bool = False
    stop: tuple[str, ...] = ()


def wanted_reply(request: ChatRequest, tokens: TokenSequence, max_new_tokens: int, number: int = 0) -> WantedReply:
    """Describe reply `number` to a request; each number has its own seed.

    Args:
        request: The client's request.
        tokens: The encoded conversation.
        max_new_tokens: Longest reply, and the length if the client gives none.
        number: Number of the reply, starting at 0.
    """
    is_alone = request.temperature > 0 and request.seed is not None
    seed = request.seed + number if is_alone and request.seed is not None else random.getrandbits(62)
    length = min(request.max_new_tokens or max_new_tokens, max_new_tokens)
    sampling = Sampling(request.temperature, length, seed if request.temperature > 0 else 0)
    return WantedReply(tokens, sampling, is_alone, request.is_streamed, tuple(request.stop))


class QueuedReply:
    """A reply that waits or is being generated.

    Args:
        wanted: The reply to generate.
        encoder: Decodes the reply, and remembers its ids.
        notify: Called when there is something new.
    """

    def __init__(self, wanted: WantedReply, encoder: ChatEncoder, notify: Callable[[], None]) -> None:
        self.wanted = wanted
        self.is_cancelled = False
        self.has_stopped = False
        self._encoder = encoder
        self._notify = notify
        self._written: list[int] = []
        self._ids: list[int] = []
        self._news: queue.SimpleQueue[int | Completion | BadRequest] = queue.SimpleQueue()

    def add(self, news: Completion | BadRequest) -> None:
        """Add the whole reply, or its error; called by the generation thread."""
        self._news.put(news)
        self._notify()

    def add_token(self, token: int) -> None:
        """Add one token, and check whether it completes a stop text; called by the generation thread."""
        if token == self._encoder.conversation.end_of_turn_id:
            return
        stop = self.wanted.stop
        if stop and not self.has_stopped:
            self._written.append(token)
            self.has_stopped = _find(self._encoder.decode(self._written), stop) is not None
        if self.wanted.is_streamed:
            self._news.put(token)
            self._notify()

    def read(self) -> ReplySoFar | None:
        """The current reply; None if nothing is new. Does not wait. Raises `BadRequest` if the reply failed."""
        n_read = len(self._ids)
        while not self._news.empty():
            news = self._news.get()
            if isinstance(news, BadRequest):
                raise news
            if isinstance(news, Completion):
                return self._whole(news)
            self._ids.append(news)
        if len(self._ids) == n_read:
            return None
        return ReplySoFar(unstopped(self._encoder.decode(self._ids), self.wanted.stop), len(self._ids))

    def _whole(self, sampled: Completion) -> ReplySoFar:
        text = self._encoder.decode(sampled.ids)
        at = _find(text, self.wanted.stop)
        if at is None:
            if sampled.is_finished:
                self._encoder.remember(self.wanted.tokens, text, sampled.ids)
            return ReplySoFar(text, len(sampled.ids), sampled)
        # Because of other replies in the batch, sampling may have continued after the stop text.
        lengths = range(1, len(sampled.ids) + 1)
        n = next(n for n in lengths if _find(self._encoder.decode(sampled.ids[:n]), self.wanted.stop) is not None)
        return ReplySoFar(text[:at], n, Completion(sampled.ids[:n], sampled.logprobs[:n], is_finished=True))

    def cancel(self) -> None:
        """Mark the reply as no longer wanted."""
        self.is_cancelled = True


def hand_on(replies: Sequence[QueuedReply], ids_B: Sequence[int | None]) -> bool:
    """Pass the tokens of one step to their replies; False once no reply needs another token."""
    for reply, token in zip(replies, ids_B, strict=True):
        if token is not None:
            reply.add_token(token)
    return not all(reply.is_cancelled or reply.has_stopped for reply in replies)


class Backend(ABC):
    """Generates replies.

    Args:
        conversation: The policy's conversation format.
        name: The model's name for clients.
        max_new_tokens: Longest reply, and the length if a client gives none.
    """

    def __init__(self, conversation: Conversation, name: str, max_new_tokens: int = 1024) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.encoder = ChatEncoder(conversation)

    @abstractmethod
    def start(self, wanted: WantedReply, notify: Callable[[], None], is_first: bool = True) -> QueuedReply:
        """Start a reply; `notify` is called, from any thread, whenever the reply has something new.

        Args:
            wanted: The reply to generate.
            notify: Must not block.
            is_first: False for a later turn of the same answer, which is accepted even if the queue is full.

        Raises:
            BadRequest: Too many replies wait, or the backend is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """End all replies, even in the middle of one."""


def _find(text: str, stop: Sequence[str]) -> int | None:
    """Index of the stop text that is complete first, or of the longest one if several end there; None without one."""
    ends = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    return min(ends)[1] if ends else None


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first complete stop text; a stream cannot wait for one that may become longer."""
    return text[: _find(text, stop)]


def unstopped(text: str, stop: Sequence[str]) -> str:
    """The part of an unfinished text that no later stop text can remove."""
    if _find(text, stop) is not None:
        return cut_at(text, stop)
    # A replacement character may be the start of a letter with which a stop text begins.
    text = text.rstrip("\ufffd") if stop else text
    held = (n for one in stop for n in range(1, len(one)) if text.endswith(one[:n]))
    return text[: len(text) - max(held, default=0)]


def shutting_down() -> BadRequest:
    """The error for a reply that is cut off because the server stops."""
    return BadRequest("The server is shutting down.", code="unavailable", status=503)


def too_many() -> BadRequest:
    """The error for a request that is refused because the queue is full."""
    return BadRequest("Too many requests are waiting.", code="rate_limit_exceeded", status=429)


def failed() -> BadRequest:
    """The error for a reply that could not be generated; the log has the reason."""
    return BadRequest("The reply could not be generated.", code="generation_failed", status=500)
