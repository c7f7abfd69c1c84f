"""Answers single questions of many coroutines in batches: tool calls, and turns of a policy that samples batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from cv_lightning.pacing.callers_thread import CallersThread, resolve
from cv_lightning.rollout import Completion, Executor, Session
from cv_lightning.types import TokenSequence
from sandbox import Observation, ToolRequest

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")
_Waiting = tuple[_Question, asyncio.Future[_Answer]]


class Batches(Generic[_Question, _Answer]):
    """Answers all waiting questions with one call in another thread; questions that arrive meanwhile wait for the next.

    Args:
        run: Runs a function in that thread.
        answer: Answers a batch, in its order; it may report the index and answer of some questions early.
    """

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], asyncio.Future[Any]],
        answer: Callable[[Sequence[_Question], Callable[[int, _Answer], None]], Sequence[_Answer]],
    ) -> None:
        self._run = run
        self._answer = answer
        self._waiting: list[_Waiting[_Question, _Answer]] = []
        self._is_busy = False

    async def ask(self, question: _Question) -> _Answer:
        """The answer to a question."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()
        self._waiting.append((question, future))
        loop.call_soon(self._start)  # after all coroutines that woke at the same moment have asked
        return await future

    def _due(self) -> list[_Waiting[_Question, _Answer]]:
        return self._waiting

    def _start(self) -> None:
        waiting = [] if self._is_busy else self._due()
        if not waiting:
            return
        self._waiting, self._is_busy = [], True
        questions = [question for question, _ in waiting]
        loop = asyncio.get_running_loop()

        def tell(index: int, answer: _Answer) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(resolve, waiting[index][1], answer)

        answers = self._run(lambda: list(zip(waiting, self._answer(questions, tell), strict=True)))
        answers.add_done_callback(partial(self._end, waiting))

    def _end(
        self,
        waiting: Sequence[_Waiting[_Question, _Answer]],
        answered: asyncio.Future[list[tuple[_Waiting[_Question, _Answer], _Answer]]],
    ) -> None:
        self._is_busy = False
        if answered.cancelled():
            return
        error = answered.exception()
        if error is not None:
            for _, future in waiting:
                _fail(future, error)
        else:
            for (_, future), answer in answered.result():
                resolve(future, answer)
        self._start()


class SortedCalls:
    """Runs calls that need no worker in a separate thread, so that they do not wait for calls that need one.

    Args:
        thread: The separate thread.
        executor: Runs the calls that need no worker.
        others: Runs the other calls.
    """

    def __init__(
        self, thread: ThreadPoolExecutor, executor: Executor, others: Batches[ToolRequest, Observation]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._quick: Batches[ToolRequest, Observation | None] = Batches(
            partial(loop.run_in_executor, thread), lambda requests, _: executor.execute_here(requests)
        )
        self._others = others

    async def ask(self, request: ToolRequest) -> Observation:
        """The observation of a call."""
        return await self._quick.ask(request) or await self._others.ask(request)


class Barrier(Batches[TokenSequence, Completion]):
    """Requests turns from a session that samples batches, once every live trajectory waits for its turn.

    Args:
        caller: Its thread does the sampling.
        session: Samples batches.
        contexts: Contexts of all trajectories, in the order of the rows.
    """

    def __init__(self, caller: CallersThread, session: Session, contexts: Sequence[TokenSequence]) -> None:
        super().__init__(caller.run, lambda contexts, _: session.sample(contexts))
        self._row = {id(context): row for row, context in enumerate(contexts)}
        self._n_live = len(contexts)

    def leave(self, _: object) -> None:
        """Stop waiting for a trajectory that has ended."""
        self._n_live -= 1
        self._start()

    def _due(self) -> list[_Waiting[TokenSequence, Completion]]:
        if len(self._waiting) < self._n_live:
            return []
        return sorted(self._waiting, key=lambda waiting: self._row[id(waiting[0])])


def _fail(future: asyncio.Future[_Answer], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
