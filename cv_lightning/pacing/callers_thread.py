"""An event loop in its own thread, while the calling thread does the blocking work."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

#: Seconds: longest wait of the caller, which an interrupt may fail to end, and the interval at which the coroutine
#: checks that the caller is still in `serve`.
_WAIT_S, _LOOK_S = 0.5, 0.05

_Answer = TypeVar("_Answer")


class CallersThread:
    """Runs a coroutine in its own thread, and the functions that it passes to `run` in the caller's thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_serving = threading.Lock()
        self._may_start = threading.Event()  # set once the pool knows its thread, and so will wait for it
        self._answers: deque[tuple[asyncio.Future[Any], Any]] = deque()  # that the loop has yet to deliver

    def serve(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Return when the coroutine has ended; an exception in either thread ends both and is raised here."""
        # The other thread checks the lock to see whether it must end. If code here cancelled the coroutine instead, an
        # interrupt before that code would make the pool wait forever. No interrupt can come between an exception and
        # the release of a lock.
        with ThreadPoolExecutor(1, thread_name_prefix="rollout") as pool, self._is_serving:
            ended = pool.submit(asyncio.run, self._while_served(coroutine))
            ended.add_done_callback(lambda _: self._jobs.put(None))
            self._may_start.set()
            while (job := self._next_job()) is not None:
                job()
        ended.result()

    async def _while_served(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, and cancel it if `serve` exits; it has started by then, so it can close its resources."""
        while self._is_serving.locked() and not self._may_start.wait(_LOOK_S):
            pass
        task = asyncio.ensure_future(coroutine)
        while not (await asyncio.wait([task], timeout=_LOOK_S))[0]:
            if not self._is_serving.locked():
                task.cancel()
                break
        await task

    def _next_job(self) -> Callable[[], None] | None:
        """The next job; None after the last. Waits are short, because a signal just before a wait does not end it."""
        while True:
            with suppress(queue.Empty):
                return self._jobs.get(timeout=_WAIT_S)

    def stop(self) -> None:
        """Make `serve` raise `CancelledError`; may be called in any thread."""

        def job() -> None:
            raise CancelledError

        self._jobs.put(job)

    def run(self, function: Callable[[], _Answer]) -> asyncio.Future[_Answer]:
        """Run a function in the thread of `serve`, and return a future of its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()

        def job() -> None:
            self._answers.append((future, function()))
            # One call wakes the loop for all answers that arrive until it runs: it costs more than a short function.
            if len(self._answers) == 1:
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(self._deliver)

        self._jobs.put(job)
        return future

    def _deliver(self) -> None:
        while self._answers:
            resolve(*self._answers.popleft())


def resolve(future: asyncio.Future[_Answer], result: _Answer) -> None:
    """Set a result, unless the future is already done."""
    if not future.done():
        future.set_result(result)
