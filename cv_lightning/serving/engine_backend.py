"""An engine as the backend of a chat server: each reply is requested separately, and the engine forms the batches."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import AsyncSession, SamplingPolicy
from cv_lightning.serving.replies import Backend, QueuedReply, WantedReply, failed, hand_on, shutting_down, too_many
from cv_lightning.serving.request import BadRequest

_LOG = logging.getLogger(__name__)
_CLOSE_S = 60.0


class EngineBackend(Backend):
    """Serves a policy whose replies an engine samples.

    Args:
        policy: Opens `AsyncSession`s.
        name: The model's name for clients.
        max_new_tokens: Longest reply, and the length if a client gives none.
        max_waiting: Number of unfinished replies; further requests are refused with 429.
    """

    def __init__(self, policy: SamplingPolicy, name: str, max_new_tokens: int = 1024, max_waiting: int = 256) -> None:
        super().__init__(policy.conversation, name, max_new_tokens)
        self._policy = policy
        self._max_waiting = max_waiting
        self._running: dict[Future[None], QueuedReply] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="generation", daemon=True)
        self._thread.start()

    def start(self, wanted: WantedReply, notify: Callable[[], None], is_first: bool = True) -> QueuedReply:
        """See `Backend`."""
        job = QueuedReply(wanted, self.encoder, notify)
        with self._lock:
            if is_first and len(self._running) >= self._max_waiting:
                raise too_many()
            if self._is_closed:
                raise shutting_down()
            running = asyncio.run_coroutine_threadsafe(self._write(job), self._loop)
            self._running[running] = job
        running.add_done_callback(self._forget)
        return job

    def close(self) -> None:
        """See `Backend`."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        self._loop.close()

    async def _cancel_all(self) -> None:
        """Cancel the replies in their own thread, and wait until each has notified its client."""
        replies = asyncio.all_tasks() - {asyncio.current_task()}
        for reply in replies:
            reply.cancel()
        await asyncio.gather(*replies, return_exceptions=True)

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            del self._running[future]

    async def _write(self, job: QueuedReply) -> None:
        try:
            session = self._policy.open_session(job.wanted.sampling, lambda ids_B: hand_on([job], ids_B))
            if not isinstance(session, AsyncSession):
                raise TypeError(f"session: expected an AsyncSession, got {type(session).__name__}")
            try:
                completion = await session.sample(job.wanted.tokens)
            finally:
                await session.close()
            job.add(completion)
        except asyncio.CancelledError:
            job.add(shutting_down())
            raise
        except ConfigError as error:  # a temperature that the engine does not support
            job.add(BadRequest(str(error), "temperature"))
        except Exception:  # noqa: BLE001 - the client gets an error and the server continues
            _LOG.exception("a reply failed")
            job.add(failed())
