"""The multi-turn loop: the policy samples a turn, the executor answers, until every trajectory has ended.

Each trajectory is a coroutine. It requests its next turn as soon as it has the result of its call, and does not wait
for other trajectories. The event loop has its own thread, so the caller may have a running event loop itself. Blocking
work (a local policy, tools) runs in the calling thread, which would otherwise only wait; so the work keeps the caller's
autocast, device and interrupts. With an engine, tools that need no worker run in a third thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cv_lightning.conversation import Conversation
from cv_lightning.errors import EngineError
from cv_lightning.pacing.batches import Barrier, Batches, SortedCalls
from cv_lightning.pacing.callers_thread import CallersThread
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

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")
_Ask = Callable[[_Question], Awaitable[_Answer]]
_Run = Callable[[ToolRequest], Awaitable[Observation]]

#: Called with the index of a group and the group, in the thread that called `roll_out`.
AfterGroup = Callable[[int, Group], None]


def roll_out(
    samples: Sequence[Sample],
    policy: SamplingPolicy,
    executor: Executor,
    sampling: Sampling,
    group_size: int = 1,
    max_turns: int = 4,
    stop: Future[None] | None = None,
    after_group: AfterGroup | None = None,
) -> list[Group]:
    """Sample `group_size` trajectories of each sample.

    Args:
        samples: P questions.
        policy: Samples the turns.
        executor: Runs the code.
        sampling: How tokens are sampled.
        group_size: G, trajectories of each sample.
        max_turns: Maximum number of assistant turns; a tool call in the last turn is not executed.
        stop: Another thread completes it to cancel the rollouts.
        after_group: Called as soon as all trajectories of a group have ended, while others continue.

    Returns:
        P groups of G trajectories.

    Raises:
        EngineError: The policy's engine cannot continue.
        CancelledError: `stop` was completed (the class of `concurrent.futures`).
    """
    groups = [Group(sample, _begin(sample, policy.conversation, group_size)) for sample in samples]
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    after_turn = None if after_group is None else _after_turn(groups, after_group)
    if trajectories:
        session = policy.open_session(sampling)
        drive(trajectories, session, policy.conversation, executor, max_turns, after_turn, stop)
    return groups


def _after_turn(groups: Sequence[Group], after_group: AfterGroup) -> Callable[[Trajectory], bool]:
    """A callback for `drive` that calls `after_group` when the last trajectory of a group has ended."""
    number_of = {trajectory.episode: number for number, group in enumerate(groups) for trajectory in group.trajectories}
    n_live = [len(group.trajectories) for group in groups]

    def after_turn(trajectory: Trajectory) -> bool:
        number = number_of[trajectory.episode]
        n_live[number] -= trajectory.stop_reason is not None
        if n_live[number] == 0:
            after_group(number, groups[number])
        return True

    return after_turn


def _begin(sample: Sample, conversation: Conversation, group_size: int) -> list[Trajectory]:
    """G trajectories before their first turn; the prompt is encoded once, and the trajectories share its images."""
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
        trajectories: Trajectories that have not ended.
        session: Samples the turns. A `Session` gets all live trajectories together, in their order; an `AsyncSession`
            is closed at the end.
        conversation: Writes the trajectories as tokens.
        executor: Runs the code: all waiting calls in one batch. With an `AsyncSession`, each trajectory continues as
            soon as its own call has ended, and calls that need no worker do not wait for calls that need one.
        max_turns: Maximum number of turns; a tool call in the last turn is not executed.
        after_turn: Called after each turn, once its call has a result; if it returns False, the trajectory stops
            there and keeps its state.
        stop: Another thread completes it to cancel the rollouts.

    Raises:
        EngineError: The session cannot continue; some trajectories have no `stop_reason`.
        CancelledError: `stop` was completed.
    """
    caller = CallersThread()
    if stop is not None:
        stop.add_done_callback(lambda _: caller.stop())
    caller.serve(_Player(caller, executor, conversation, max_turns, after_turn).play_all(trajectories, session))


@dataclass(frozen=True)
class _Player:
    """Plays trajectories; the attributes are the arguments of `drive`."""

    caller: CallersThread
    executor: Executor
    conversation: Conversation
    max_turns: int
    after_turn: Callable[[Trajectory], bool] | None

    async def play_all(self, trajectories: Sequence[Trajectory], session: Session | AsyncSession) -> None:
        """Play all trajectories, and close the session if it is an `AsyncSession`."""
        if isinstance(session, AsyncSession):
            tools: Batches[ToolRequest, Observation] = Batches(self.caller.run, self.executor.execute)
            try:
                with ThreadPoolExecutor(1, "rollout-tools") as thread:
                    ask = SortedCalls(thread, self.executor, tools).ask
                    await _gather([self._play(trajectory, session.sample, ask) for trajectory in trajectories])
            finally:
                await session.close()
        else:
            barrier = Barrier(self.caller, session, [trajectory.tokens for trajectory in trajectories])
            tools = Batches(self.caller.run, lambda requests, _: self.executor.execute(requests))
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
    """An answer and the seconds until it arrived, without the time of trajectories that woke at the same moment."""
    await asyncio.sleep(0)
    started = time.perf_counter()
    return await ask(question), time.perf_counter() - started


async def _gather(
    coroutines: Sequence[Coroutine[Any, Any, None]], on_end: Callable[[object], None] = lambda _: None
) -> None:
    """Run coroutines together; the first failure cancels the others, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
            for task in tasks:
                task.add_done_callback(on_end)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    if any(task.cancelled() for task in tasks):
        raise EngineError("The engine's client canceled a turn. This is a fault of the client: report it.")
