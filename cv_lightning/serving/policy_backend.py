"""A policy as the backend of a chat server: simultaneous requests are generated in one batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cv_lightning.rollout import BatchingPolicy
from cv_lightning.serving.replies import Backend, QueuedReply, WantedReply, failed, hand_on, shutting_down, too_many

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batching:
    """How requests are combined into batches.

    Attributes:
        max_batch: Largest number of replies that are generated at the same time.
        window_s: Seconds that the first request waits for others.
        max_waiting: Number of requests that may wait; further ones are refused with 429.
    """

    max_batch: int = 16
    window_s: float = 0.01
    max_waiting: int = 256


class PolicyBackend(Backend):
    """Serves a policy.

    Args:
        policy: The policy, in evaluation mode.
        name: The model's name for clients.
        max_new_tokens: Longest reply, and the length if a client gives none.
        batching: How requests are combined into batches.
    """

    def __init__(
        self, policy: BatchingPolicy, name: str, max_new_tokens: int = 1024, batching: Batching | None = None
    ) -> None:
        super().__init__(policy.conversation, name, max_new_tokens)
        self.policy = policy
        self.batching = batching or Batching()
        self.batch_sizes: deque[int] = deque(maxlen=1000)
        self._waiting: deque[QueuedReply] = deque()
        self._changed = threading.Condition()
        self._running: Sequence[QueuedReply] = ()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def start(self, wanted: WantedReply, notify: Callable[[], None], is_first: bool = True) -> QueuedReply:
        """See `Backend`."""
        job = QueuedReply(wanted, self.encoder, notify)
        with self._changed:
            if is_first and len(self._waiting) >= self.batching.max_waiting:
                raise too_many()
            if self._is_closed:
                raise shutting_down()
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """End the generation thread, even in the middle of a reply."""
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
            job.add(shutting_down())

    def _next_batch(self) -> list[QueuedReply]:
        """The first waiting reply and those that can be sampled with it; empty once the backend is closed."""
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
            session = self.policy.open_session(wanted[0].wanted.sampling, lambda ids_B: hand_on(wanted, ids_B))
            for job, completion in zip(wanted, session.sample([job.wanted.tokens for job in wanted]), strict=True):
                job.add(shutting_down() if job.is_cancelled else completion)
        except Exception:  # noqa: BLE001 - the clients get an error and the server continues
            if len(wanted) > 1 and not any(job.wanted.is_streamed for job in wanted):
                # A reply that does not fit in memory, or is broken, must not fail the others.
                _release_memory()
                for job in wanted:
                    self._generate([job])
                return
            _LOG.exception("a batch of %d failed", len(wanted))
            for job in wanted:
                job.add(failed())
            _release_memory()


def _fits(job: QueuedReply, first: QueuedReply) -> bool:
    """Whether two replies can be sampled by one session."""
    settings = [(one.sampling.temperature, one.sampling.max_new_tokens) for one in (job.wanted, first.wanted)]
    return settings[0] == settings[1] and not job.wanted.is_alone and not first.wanted.is_alone


def _release_memory() -> None:
    import torch  # the policy has imported it already

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
