"""A policy as the backend of a chat server: what is asked at the same time is generated in one batch."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cv_lightning.rollout import Completion, Sampling, SamplingPolicy
from cv_lightning.serving.backend import Progress
from cv_lightning.serving.encoding import ChatEncoder
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.types import TokenSequence

_LOG = logging.getLogger(__name__)

_CANCELLED = BadRequest("The reply was cancelled.", code="cancelled", status=503)


class Job:
    """A reply that is being written; see `cv_lightning.serving.backend.Running`.

    Args:
        tokens: The conversation.
        sampling: How the reply is drawn.
        encoder: Decodes it, and remembers its ids.
        is_alone: Whether no other may be drawn with it: one seed serves a batch.
        is_watched: Whether the reply is wanted in pieces.
    """

    def __init__(
        self, tokens: TokenSequence, sampling: Sampling, encoder: ChatEncoder, is_alone: bool, is_watched: bool
    ) -> None:
        self.tokens = tokens
        self.sampling = sampling
        self.is_alone = is_alone
        self.is_watched = is_watched
        self.is_cancelled = False
        self.n_input = len(tokens)
        self._encoder = encoder
        self._ids: list[int] = []
        self._news: queue.SimpleQueue[int | Completion | BadRequest] = queue.SimpleQueue()

    def add(self, token_id: int) -> None:
        """One more token, from the thread that generates."""
        self._news.put(token_id)

    def finish(self, outcome: Completion | BadRequest) -> None:
        """The whole reply, or why there is none."""
        self._news.put(outcome)

    def poll(self, timeout_s: float) -> Progress | None:
        """What is new, None where nothing is within `timeout_s`."""
        try:
            news = self._news.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(news, BadRequest):
            raise news
        if isinstance(news, int):
            self._ids.append(news)
            return Progress(self._encoder.decode(self._ids), len(self._ids), None)
        text = self._encoder.decode(news.ids)
        if news.is_finished:
            self._encoder.remember(self.tokens, text, news.ids)
        return Progress(text, len(news.ids), "stop" if news.is_finished else "length")

    def cancel(self) -> None:
        """Nobody waits for it any more."""
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
        max_new_tokens: Longest reply, and the length where a client does not say.
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
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Sequence[Job] = ()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def start(self, request: ChatRequest) -> Job:
        """Put a reply into the queue; raises `BadRequest` for one that cannot be written or has no place."""
        tokens = self.encoder.encode(request)
        is_alone = request.temperature > 0 and request.seed is not None
        seed = request.seed if is_alone and request.seed is not None else 0
        if request.temperature > 0 and not is_alone:
            seed = random.getrandbits(62)
        n_tokens = min(request.max_new_tokens or self.max_new_tokens, self.max_new_tokens)
        sampling = Sampling(request.temperature, n_tokens, seed)
        job = Job(tokens, sampling, self.encoder, is_alone, request.is_streamed)
        with self._changed:
            if len(self._waiting) >= self.batching.max_waiting:
                raise BadRequest("Too many requests are waiting.", code="rate_limit_exceeded", status=429)
            if self._is_closed:
                raise BadRequest("The server is shutting down.", code="unavailable", status=503)
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """End the thread that generates, in the middle of a reply too."""
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
            job.finish(BadRequest("The server is shutting down.", code="unavailable", status=503))

    def _next_batch(self) -> list[Job]:
        """The first that waits and those that can be drawn with it; empty once the backend is closed."""
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

    def _generate(self, jobs: Sequence[Job]) -> None:
        wanted = [job for job in jobs if not job.is_cancelled]
        if not wanted:
            return
        self.batch_sizes.append(len(wanted))
        end_id = self.policy.conversation.end_of_turn_id

        def on_tokens(ids_B: Sequence[int | None]) -> bool:
            for job, token in zip(wanted, ids_B, strict=True):
                if job.is_watched and token is not None and token != end_id:
                    job.add(token)
            return not all(job.is_cancelled for job in wanted)

        try:
            session = self.policy.open_session(wanted[0].sampling, on_tokens)
            for job, completion in zip(wanted, session.sample([job.tokens for job in wanted]), strict=True):
                job.finish(_CANCELLED if job.is_cancelled else completion)
        except Exception:  # noqa: BLE001 - whatever it is, the clients are told and the server goes on
            if len(wanted) > 1 and not any(job.is_watched for job in wanted):
                # One that does not fit in memory, or is broken, must not take the others with it.
                _release_memory()
                for job in wanted:
                    self._generate([job])
                return
            _LOG.exception("a batch of %d failed", len(wanted))
            for job in wanted:
                job.finish(BadRequest("The reply could not be generated.", code="generation_failed", status=500))
            _release_memory()


def _fits(job: Job, first: Job) -> bool:
    """Whether two replies can be drawn by one session."""
    settings = [(one.sampling.temperature, one.sampling.max_new_tokens) for one in (job, first)]
    return settings[0] == settings[1] and not job.is_alone and not first.is_alone


def _release_memory() -> None:
    import torch  # the policy has imported it already

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
