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

from cv_lightning.rollout import Completion, Sampling, SamplingPolicy
from cv_lightning.serving.encoding import ChatEncoder
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.types import TokenSequence

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplySoFar:
    """A reply, perhaps incomplete.

    Attributes:
        text: All of it so far.
        n_output: Its tokens so far.
        end: "stop", "length", or None while it is being written.
    """

    text: str
    n_output: int
    end: str | None


class QueuedReply:
    """A reply that waits or is being written.

    Args:
        tokens: The conversation.
        sampling: How the reply is drawn.
        encoder: Decodes it, and remembers its ids.
        request: The client's request.
        notify: Called when there is something new.
    """

    def __init__(
        self,
        tokens: TokenSequence,
        sampling: Sampling,
        encoder: ChatEncoder,
        request: ChatRequest,
        notify: Callable[[], None],
    ) -> None:
        self.tokens = tokens
        self.sampling = sampling
        self.is_alone = _is_seeded(request)  # one seed serves a batch: no other may be drawn with it
        self.is_streamed = request.is_streamed
        self.is_cancelled = False
        self.n_input = len(tokens)
        self._encoder = encoder
        self._notify = notify
        self._ids: list[int] = []
        self._news: queue.SimpleQueue[int | Completion | BadRequest] = queue.SimpleQueue()

    def add(self, news: int | Completion | BadRequest) -> None:
        """Take one more token, the whole reply, or its error, from the thread that generates."""
        self._news.put(news)
        self._notify()

    def read(self) -> ReplySoFar | None:
        """The reply as it is now, None if nothing is new; does not wait. Raises `BadRequest` if it failed."""
        n_read = len(self._ids)
        while not self._news.empty():
            news = self._news.get()
            if isinstance(news, BadRequest):
                raise news
            if isinstance(news, Completion):
                text = self._encoder.decode(news.ids)
                if news.is_finished:
                    self._encoder.remember(self.tokens, text, news.ids)
                return ReplySoFar(text, len(news.ids), "stop" if news.is_finished else "length")
            self._ids.append(news)
        return ReplySoFar(self._encoder.decode(self._ids), len(self._ids), None) if len(self._ids) > n_read else None

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
        self, policy: SamplingPolicy, name: str, max_new_tokens: int = 1024, batching: Batching | None = None
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

    def start(self, request: ChatRequest, notify: Callable[[], None]) -> QueuedReply:
        """Put a reply into the queue; `notify` is called, from any thread, whenever it has something new.

        Raises:
            BadRequest: The request cannot be encoded, or the queue is full or closed.
        """
        tokens = self.encoder.encode(request)
        seed = 0
        if request.temperature > 0:
            seed = random.getrandbits(62) if request.seed is None else request.seed
        n_tokens = min(request.max_new_tokens or self.max_new_tokens, self.max_new_tokens)
        sampling = Sampling(request.temperature, n_tokens, seed)
        job = QueuedReply(tokens, sampling, self.encoder, request, notify)
        with self._changed:
            if len(self._waiting) >= self.batching.max_waiting:
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
            session = self.policy.open_session(wanted[0].sampling, lambda ids_B: self._hand_on(wanted, ids_B))
            for job, completion in zip(wanted, session.sample([job.tokens for job in wanted]), strict=True):
                job.add(_shutting_down() if job.is_cancelled else completion)
        except Exception:  # noqa: BLE001 - the clients get an error and the server continues
            if len(wanted) > 1 and not any(job.is_streamed for job in wanted):
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
            if job.is_streamed and token is not None and token != end_id:
                job.add(token)
        return not all(job.is_cancelled for job in jobs)


def _is_seeded(request: ChatRequest) -> bool:
    return request.temperature > 0 and request.seed is not None


def _fits(job: QueuedReply, first: QueuedReply) -> bool:
    """Whether two replies can be drawn by one session."""
    settings = [(one.sampling.temperature, one.sampling.max_new_tokens) for one in (job, first)]
    return settings[0] == settings[1] and not job.is_alone and not first.is_alone


def _shutting_down() -> BadRequest:
    return BadRequest("The server is shutting down.", code="unavailable", status=503)


def _release_memory() -> None:
    import torch  # the policy has imported it already

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
