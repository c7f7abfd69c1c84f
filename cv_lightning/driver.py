"""The multi-turn loop: a policy speaks, the executor answers, until every trajectory has ended.

Each trajectory is a coroutine. It asks for its next turn as soon as the result of its call is there, and waits for no
other trajectory. The event loop has a thread of its own. Whatever blocks (a local policy, tools) runs in the thread
that called, which would only wait: it keeps its autocast, its device and its interrupts, and may have a running event
loop itself. With an engine, tools that take no worker have another thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cv_lightning.conversation import Conversation
from cv_lightning.errors import EngineError
from cv_lightning.rollout import (
    AsyncSession,
    Completion,
    Executor,
    Sampling,
    SamplingPolicy,
    Session,
    append_observation,
    append_reply,
    refusal,
    request_of,
    runnable_call,
)
from cv_lightning.types import Group, Sample, TokenSequence, Trajectory
from sandbox import Observation, ToolRequest

#: Longest wait that an interrupt may fail to end.
_WAIT_S = 0.5

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")
_Waiting = tuple[_Question, asyncio.Future[_Answer]]
_Ask = Callable[[_Question], Awaitable[_Answer]]
_Run = Callable[[ToolRequest], Awaitable[Observation]]


def roll_out(
    samples: Sequence[Sample],
    policy: SamplingPolicy,
    executor: Executor,
    sampling: Sampling,
    group_size: int = 1,
    max_turns: int = 4,
    stop: Future[None] | None = None,
) -> list[Group]:
    """Sample `group_size` trajectories of each sample.

    Args:
        samples: P questions.
        policy: Speaks.
        executor: Runs the code.
        sampling: How tokens are drawn.
        group_size: G, trajectories of each sample.
        max_turns: Assistant turns of a trajectory; a tool call in the last one is not executed.
        stop: Done if another thread no longer wants the rollouts.

    Returns:
        P groups of G trajectories.

    Raises:
        EngineError: The policy's engine cannot continue.
        CancelledError: It was stopped (that of `concurrent.futures`).
    """
    groups = [Group(sample, _begin(sample, policy.conversation, group_size)) for sample in samples]
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    if trajectories:
        drive(trajectories, policy.open_session(sampling), policy.conversation, executor, max_turns, stop=stop)
    return groups


def _begin(sample: Sample, conversation: Conversation, group_size: int) -> list[Trajectory]:
    """G trajectories before their first turn; the prompt is written once, and they share its images."""
    prompt = conversation.start(sample)
    return [Trajectory(sample, images=[*prompt.images], tokens=prompt.copy()) for _ in range(group_size)]


def drive(
    trajectories: Sequence[Trajectory],
    session: Session | AsyncSession,
    conversation: Conversation,
    executor: Executor,
    max_turns: int,
    after_turn: Callable[[Trajectory], bool] | None = None,
    stop: Future[None] | None = None,
) -> None:
    """Continue trajectories until each has its `stop_reason`.

    Args:
        trajectories: They have not ended.
        session: Samples the turns; it is closed in the end. One that samples batches gets all live trajectories
            together, in their order.
        conversation: Writes them as tokens.
        executor: Runs the code: all calls that wait, in one batch. If trajectories have paces of their own, calls that
            take no worker do not wait for those that do.
        max_turns: Turns of each; a tool call in the last one is not executed.
        after_turn: Called after each turn, with the result of its call; if it returns False, the trajectory is left
            as it is.
        stop: Done if another thread no longer wants the rollouts.

    Raises:
        EngineError: The session cannot continue; some trajectories have no `stop_reason`.
        CancelledError: It was stopped.
    """
    caller = _CallersThread()
    if stop is not None:
        stop.add_done_callback(lambda _: caller.stop())
    caller.serve(_Player(caller, executor, conversation, max_turns, after_turn).play_all(trajectories, session))


@dataclass(frozen=True)
class _Player:
    """Plays trajectories; the attributes are those of `drive`."""

    caller: _CallersThread
    executor: Executor
    conversation: Conversation
    max_turns: int
    after_turn: Callable[[Trajectory], bool] | None

    async def play_all(self, trajectories: Sequence[Trajectory], session: Session | AsyncSession) -> None:
        """Play all of them, and close the session."""
        tools: _Batches[ToolRequest, Observation] = _Batches(self.caller.run, self.executor.execute)
        if isinstance(session, AsyncSession):
            try:
                with ThreadPoolExecutor(1, "rollout-tools") as thread:
                    ask = _Sorted(thread, self.executor, tools).ask
                    await _gather([self._play(trajectory, session.sample, ask) for trajectory in trajectories])
            finally:
                await session.close()
        else:
            barrier = _Barrier(self.caller, session, [trajectory.tokens for trajectory in trajectories])
            plays = [self._play(trajectory, barrier.ask, tools.ask) for trajectory in trajectories]
            await _gather(plays, barrier.leave)

    async def _play(self, trajectory: Trajectory, sample: _Ask[TokenSequence, Completion], run: _Run) -> None:
        for turn in range(self.max_turns):
            completion, seconds = await _timed(sample, trajectory.tokens)
            append_reply(trajectory, completion, self.conversation, seconds, is_last=turn == self.max_turns - 1)
            if trajectory.stop_reason is None:
                await self._answer(trajectory, run)
            if self.after_turn is not None and not await self.caller.run(partial(self.after_turn, trajectory)):
                return
            if trajectory.stop_reason is not None:
                return

    async def _answer(self, trajectory: Trajectory, run: _Run) -> None:
        turn = trajectory.turns[-1]
        observation = refusal(turn.reply)
        call = runnable_call(turn.reply)
        if call is not None:
            observation, turn.tools_s = await _timed(run, request_of(trajectory, call))
        turn.observation = observation
        append_observation(trajectory, observation, self.conversation)


async def _timed(ask: _Ask[_Question, _Answer], question: _Question) -> tuple[_Answer, float]:
    """An answer and the seconds until it was there, without the time of trajectories that woke at the same moment."""
    await asyncio.sleep(0)
    started = time.perf_counter()
    return await ask(question), time.perf_counter() - started


async def _gather(
    coroutines: Sequence[Coroutine[Any, Any, None]], on_end: Callable[[object], None] = lambda _: None
) -> None:
    """Run coroutines together; the first that fails cancels the others, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
            for task in tasks:
                task.add_done_callback(on_end)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    if any(task.cancelled() for task in tasks):
        raise EngineError("The engine's client cancelled a turn. This is a fault of the client: report it.")


class _CallersThread:
    """Runs a coroutine in a thread of its own, and what it passes to `run` in the thread that called `serve`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._may_start = threading.Event()  # when the pool knows its thread, and so will wait for it
        self._is_cancelled = False

    def serve(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Return when the coroutine has ended; what is raised in either thread ends both and is raised here."""

        async def main() -> None:
            self._task = task = asyncio.current_task()
            self._may_start.wait()
            if self._is_cancelled and task is not None:
                task.cancel()  # the coroutine begins all the same, and so closes what it was given
            await coroutine

        with ThreadPoolExecutor(1, thread_name_prefix="rollout") as pool:
            try:
                ended = pool.submit(asyncio.run, main())
                ended.add_done_callback(lambda _: self._jobs.put(None))
                self._may_start.set()
                while (job := self._next_job()) is not None:
                    job()
            except BaseException:
                self._cancel()
                raise
        ended.result()

    def _next_job(self) -> Callable[[], None] | None:
        """The next job; None after the last. Waits are short: a signal just before one begins does not end it."""
        while True:
            with suppress(queue.Empty):
                return self._jobs.get(timeout=_WAIT_S)

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._may_start.set()
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def stop(self) -> None:
        """Let `serve` raise `CancelledError`; called in any thread."""

        def job() -> None:
            raise CancelledError

        self._jobs.put(job)

    def run(self, function: Callable[[], _Answer]) -> asyncio.Future[_Answer]:
        """The result of a function that runs in the thread of `serve`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()

        def job() -> None:
            result = function()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_resolve, future, result)

        self._jobs.put(job)
        return future


def _resolve(future: asyncio.Future[_Answer], result: _Answer) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[_Answer], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class _Batches(Generic[_Question, _Answer]):
    """Answers all questions that wait in one call in another thread, and those that come meanwhile in the next.

    Args:
        run: Runs a function in that thread.
        answer: Answers a batch, in its order.
    """

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], asyncio.Future[Any]],
        answer: Callable[[Sequence[_Question]], Sequence[_Answer]],
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
        answers = self._run(lambda: list(zip(waiting, self._answer(questions), strict=True)))
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
                _resolve(future, answer)
        self._start()


class _Sorted:
    """Runs the calls that take no worker in a thread of their own, so that they do not wait for those that do.

    Args:
        thread: That thread.
        executor: Runs them.
        others: Runs the others.
    """

    def __init__(
        self, thread: ThreadPoolExecutor, executor: Executor, others: _Batches[ToolRequest, Observation]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._quick: _Batches[ToolRequest, Observation | None] = _Batches(
            partial(loop.run_in_executor, thread), executor.execute_here
        )
        self._others = others

    async def ask(self, request: ToolRequest) -> Observation:
        """The observation of a call."""
        return await self._quick.ask(request) or await self._others.ask(request)


class _Barrier(_Batches[TokenSequence, Completion]):
    """Asks a session that samples batches for turns when every live trajectory waits for one.

    Args:
        caller: Samples.
        session: Samples batches.
        contexts: Those of all trajectories, in the order of the rows.
    """

    def __init__(self, caller: _CallersThread, session: Session, contexts: Sequence[TokenSequence]) -> None:
        super().__init__(caller.run, session.sample)
        self._row = {id(context): row for row, context in enumerate(contexts)}
        self._n_live = len(contexts)

    def leave(self, _: object) -> None:
        """Wait no longer for a trajectory that has ended."""
        self._n_live -= 1
        self._start()

    def _due(self) -> list[_Waiting[TokenSequence, Completion]]:
        if len(self._waiting) < self._n_live:
            return []
        return sorted(self._waiting, key=lambda waiting: self._row[id(waiting[0])])
