"""A policy as the backend of a chat server: simultaneous requests are generated in one batch."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cv_lightning.rollout import BatchingPolicy, Completion, Sampling
from cv_lightning.serving.encoding import ChatEncoder
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.types import TokenSequence

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplySoFar:
    """A reply, perhaps incomplete.

    Attributes:
        text: All of it so far that stays.
        n_output: Its tokens so far.
        completion: What was sampled, once it is whole; it may be longer than `text` if that ends before a stop text.
    """

    text: str
    n_output: int
    completion: Completion | None = None

    @property
    def end(self) -> str | None:
        """OpenAI's `finish_reason`: None while the reply is being written."""
        return None if self.completion is None else "stop" if self.completion.is_finished else "length"


@dataclass(frozen=True)
class WantedReply:
    """What to write.

    Attributes:
        tokens: The conversation.
        sampling: How the reply is drawn.
        is_alone: Whether it is drawn alone, since the client gave a seed: one seed serves a whole batch.
        is_streamed: Whether somebody reads along.
        stop: The reply ends before the first of these texts.
    """

    tokens: TokenSequence
    sampling: Sampling
    is_alone: bool = False
    is_streamed: bool = False
    stop: tuple[str, ...] = ()


def wanted_reply(request: ChatRequest, tokens: TokenSequence, max_new_tokens: int, number: int = 0) -> WantedReply:
    """Reply `number` to a request; each number has its own seed.

    Args:
        request: The client's.
        tokens: Its conversation.
        max_new_tokens: Longest reply, and the length if the client gives none.
        number: 0 for the first.
    """
    is_alone = request.temperature > 0 and request.seed is not None
    seed = request.seed + number if is_alone and request.seed is not None else random.getrandbits(62)
    length = min(request.max_new_tokens or max_new_tokens, max_new_tokens)
    sampling = Sampling(request.temperature, length, seed if request.temperature > 0 else 0)
    return WantedReply(tokens, sampling, is_alone, request.is_streamed, tuple(request.stop))


class QueuedReply:
    """A reply that waits or is being written.

    Args:
        wanted: What to write.
        encoder: Decodes it, and remembers its ids.
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
        """Take the whole reply, or its error, from the thread that generates."""
        self._news.put(news)
        self._notify()

    def add_token(self, token: int) -> None:
        """Take one more token from the thread that generates, and look whether it completes a stop text."""
        stop = self.wanted.stop
        if stop and not self.has_stopped:
            self._written.append(token)
            self.has_stopped = _find(self._encoder.decode(self._written), stop) is not None
        if self.wanted.is_streamed:
            self._news.put(token)
            self._notify()

    def read(self) -> ReplySoFar | None:
        """The reply as it is now, None if nothing is new; does not wait. Raises `BadRequest` if it failed."""
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
        # Others of the batch may have kept sampling after the stop text was there.
        lengths = range(1, len(sampled.ids) + 1)
        n = next(n for n in lengths if _find(self._encoder.decode(sampled.ids[:n]), self.wanted.stop) is not None)
        return ReplySoFar(text[:at], n, Completion(sampled.ids[:n], sampled.logprobs[:n], is_finished=True))

    def cancel(self) -> None:
        """Nobody waits for the reply."""
        self.is_cancelled = True


@dataclass(frozen=True)
class Batching:
    """How requests become batches.

    Attributes:
        max_batch: Replies that are generated at the same time.
        window_s: How long the first waits for others.
        max_waiting: Requests that may wait; more are turned away with 429.
    """

    max_batch: int = 16
    window_s: float = 0.01
    max_waiting: int = 256


class PolicyBackend:
    """Serves a policy.

    Args:
        policy: The policy, in evaluation mode.
        name: What clients call it.
        max_new_tokens: Longest reply, and the length if a client gives none.
        batching: How requests become batches.
    """

    def __init__(
        self, policy: BatchingPolicy, name: str, max_new_tokens: int = 1024, batching: Batching | None = None
    ) -> None:
        self.policy = policy
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.batching = batching or Batching()
        self.encoder = ChatEncoder(policy.conversation)
        self.batch_sizes: deque[int] = deque(maxlen=1000)
        self._waiting: deque[QueuedReply] = deque()
        self._changed = threading.Condition()
        self._running: Sequence[QueuedReply] = ()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def start(self, wanted: WantedReply, notify: Callable[[], None], is_first: bool = True) -> QueuedReply:
        """Put a reply into the queue; `notify` is called, from any thread, whenever it has something new.

        Args:
            wanted: What to write.
            notify: Must not block.
            is_first: False for a later turn of the same answer, which a full queue does not turn away.

        Raises:
            BadRequest: The queue is full or closed.
        """
        job = QueuedReply(wanted, self.encoder, notify)
        with self._changed:
            if is_first and len(self._waiting) >= self.batching.max_waiting:
                raise BadRequest("Too many requests are waiting.", code="rate_limit_exceeded", status=429)
            if self._is_closed:
                raise _shutting_down()
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """End the thread that generates, even in the middle of a reply."""
        with self._changed:
            self._is_closed = True
            for job in self._running:
                job.cancel()
            self._changed.notify_all()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while jobs := self._next_batch():
            self._generate(jobs)
        for job in self._waiting:
            job.add(_shutting_down())

    def _next_batch(self) -> list[QueuedReply]:
        """The first waiting reply and those that can be drawn with it; empty once the backend is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            deadline = time.monotonic() + self.batching.window_s
            while not self._is_closed and len(self._waiting) < self.batching.max_batch:
                if not self._changed.wait(deadline - time.monotonic()):
                    break
            if self._is_closed:
                return []
            first = self._waiting[0]
            fitting = [job for job in self._waiting if job is first or _fits(job, first)]
            jobs = fitting[: self.batching.max_batch]
            taken = {id(job) for job in jobs}
            self._waiting = deque(job for job in self._waiting if id(job) not in taken)
            self._running = jobs
        return jobs

    def _generate(self, jobs: Sequence[QueuedReply]) -> None:
        wanted = [job for job in jobs if not job.is_cancelled]
        if not wanted:
            return
        self.batch_sizes.append(len(wanted))
        try:
            session = self.policy.open_session(wanted[0].wanted.sampling, lambda ids_B: self._hand_on(wanted, ids_B))
            for job, completion in zip(wanted, session.sample([job.wanted.tokens for job in wanted]), strict=True):
                job.add(_shutting_down() if job.is_cancelled else completion)
        except Exception:  # noqa: BLE001 - the clients get an error and the server continues
            if len(wanted) > 1 and not any(job.wanted.is_streamed for job in wanted):
                # A reply that does not fit in memory, or is broken, must not fail the others.
                _release_memory()
                for job in wanted:
                    self._generate([job])
                return
            _LOG.exception("a batch of %d failed", len(wanted))
            for job in wanted:
                job.add(BadRequest("The reply could not be generated.", code="generation_failed", status=500))
            _release_memory()

    def _hand_on(self, jobs: Sequence[QueuedReply], ids_B: Sequence[int | None]) -> bool:
        """Hand tokens to whoever reads along; False once nobody waits for any reply."""
        end_id = self.policy.conversation.end_of_turn_id
        for job, token in zip(jobs, ids_B, strict=True):
            if token is not None and token != end_id:
                job.add_token(token)
        return not all(job.is_cancelled or job.has_stopped for job in jobs)


def _fits(job: QueuedReply, first: QueuedReply) -> bool:
    """Whether two replies can be drawn by one session."""
    settings = [(one.sampling.temperature, one.sampling.max_new_tokens) for one in (job.wanted, first.wanted)]
    return settings[0] == settings[1] and not job.wanted.is_alone and not first.wanted.is_alone


def _find(text: str, stop: Sequence[str]) -> int | None:
    """Index of the stop text that is complete first, and of the longest if several end there; None without any."""
    ends = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    return min(ends)[1] if ends else None


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the stop text that is complete first: a stream cannot wait for one that may become longer."""
    return text[: _find(text, stop)]


def unstopped(text: str, stop: Sequence[str]) -> str:
    """The part of an unfinished text that no stop text can take back."""
    if _find(text, stop) is not None:
        return cut_at(text, stop)
    # A replacement character may be the beginning of a letter, with which a stop text begins.
    text = text.rstrip("\ufffd") if stop else text
    held = (n for one in stop for n in range(1, len(one)) if text.endswith(one[:n]))
    return text[: len(text) - max(held, default=0)]


def _shutting_down() -> BadRequest:
    return BadRequest("The server is shutting down.", code="unavailable", status=503)


def _release_memory() -> None:
    import torch  # the policy has imported it already

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
