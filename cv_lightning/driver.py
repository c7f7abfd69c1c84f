"""The multi-turn loop: a policy speaks, the executor answers, until every trajectory has ended.

Each trajectory is a coroutine. It asks for its next turn as soon as the result of its call is there, and waits for no
other trajectory. The event loop has a thread of its own. Whatever blocks (a local policy, tools) runs in the thread
that called, which would only wait: it keeps its autocast, its device and its interrupts, and may have a running event
loop itself. With an engine, tools that take no worker have another thread.
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

#: Called with number and group, in the thread that rolls out.
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
        policy: Speaks.
        executor: Runs the code.
        sampling: How tokens are drawn.
        group_size: G, trajectories of each sample.
        max_turns: Assistant turns of a trajectory; a tool call in the last one is not executed.
        stop: Done if another thread no longer wants the rollouts.
        after_group: Called as soon as all trajectories of a group have ended, while others continue.

    Returns:
        P groups of G trajectories.

    Raises:
        EngineError: The policy's engine cannot continue.
        CancelledError: It was stopped (that of `concurrent.futures`).
    """
    groups = [Group(sample, _begin(sample, policy.conversation, group_size)) for sample in samples]
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    after_turn = None if after_group is None else _after_turn(groups, after_group)
    if trajectories:
        session = policy.open_session(sampling)
        drive(trajectories, session, policy.conversation, executor, max_turns, after_turn, stop)
    return groups


def _after_turn(groups: Sequence[Group], after_group: AfterGroup) -> Callable[[Trajectory], bool]:
    """What `drive` calls after a turn, to tell which groups have ended."""
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
        executor: Runs the code: all calls that wait, in one batch. If trajectories have paces of their own, each goes
            on as soon as its own call has ended, and calls that take no worker do not wait for those that do.
        max_turns: Turns of each; a tool call in the last one is not executed.
        after_turn: Called after each turn, with the result of its call; if it returns False, the trajectory is left
            as it is.
        stop: Done if another thread no longer wants the rollouts.

    Raises:
        EngineError: The session cannot continue; some trajectories have no `stop_reason`.
        CancelledError: It was stopped.
    """
    caller = CallersThread()
    if stop is not None:
        stop.add_done_callback(lambda _: caller.stop())
    caller.serve(_Player(caller, executor, conversation, max_turns, after_turn).play_all(trajectories, session))


@dataclass(frozen=True)
class _Player:
    """Plays trajectories; the attributes are those of `drive`."""

    caller: CallersThread
    executor: Executor
    conversation: Conversation
    max_turns: int
    after_turn: Callable[[Trajectory], bool] | None

    async def play_all(self, trajectories: Sequence[Trajectory], session: Session | AsyncSession) -> None:
        """Play all of them, and close the session."""
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
