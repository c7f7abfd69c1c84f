"""One coroutine per trajectory: each gets its own turns in any order of replies; no turn is lost, no thread remains."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.conversation import format_answer, format_call
from cv_lightning.driver import drive, roll_out
from cv_lightning.errors import EngineError
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import Group, Sample, StopReason, TokenSequence, ToolCall, Trajectory
from sandbox import Observation, ToolRequest
from sandbox.types import Tell
from tests.cv_lightning.test_rollout import Script

CALL = format_call("Turned.", ToolCall("result = image.rotate(90, expand=True)", ""))
ANSWER = format_answer("I can read it.", "K")
BROKEN = "<tool_call>{</tool_call>"


class Paced(Script):
    """Samples the turns of `Script`, each trajectory on its own; awaits `pace` before each turn."""

    def __init__(self, lines: Sequence[Sequence[str | None]], pace: Callable[[int], Any] | None = None) -> None:
        super().__init__(lines)
        self.pace = pace or (lambda index: asyncio.sleep(0))
        self.n_closed = 0
        self.cancelled: list[int] = []
        self.threads: set[threading.Thread] = set()

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Any:
        super().open_session(sampling, on_tokens)
        return self

    async def sample(self, context: TokenSequence) -> Completion:  # type: ignore[override]
        index = self._indices.setdefault(id(context), len(self._indices))
        self.threads.add(threading.current_thread())
        try:
            await self.pace(index)
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        completion = self._speak(index)
        return replace(completion, versions=[7] * len(completion.ids))

    async def close(self) -> None:
        self.n_closed += 1


class Turner:
    """An executor that rotates images itself; it records the size of each batch and its threads."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[threading.Thread] = set()

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        self.batches.append(len(requests))
        self.threads.add(threading.current_thread())
        return [Observation("ok", request.images[request.image_index].rotate(90)) for request in requests]

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        return [None] * len(requests)


def play(policy: Script, executor: Any = None, **options: Any) -> list[Trajectory]:
    sample = Sample("a", "What is written?", (Image.new("RGB", (56, 28)),), "K")
    (group,) = roll_out([sample], policy, executor or Turner(), Sampling(), group_size=len(policy.lines), **options)
    return group.trajectories


def said(trajectory: Trajectory) -> Any:
    tokens = trajectory.tokens
    images = [viewed.key for viewed in tokens.images]
    return tokens.ids, tokens.is_trained, tokens.logprobs, images, trajectory.turns, trajectory.stop_reason


def rollout_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert rollout_threads() == []


# ---- the same trajectories, whatever the pace ------------------------------------------------------------------------

LINES = st.lists(st.lists(st.sampled_from([CALL, BROKEN, ANSWER, "So.", None]), min_size=3, max_size=3), max_size=5)


@given(LINES, st.randoms(use_true_random=False))
def test_trajectories_are_those_of_the_barrier_whatever_comes_first(
    lines: list[list[str | None]], chance: random.Random
) -> None:
    if not lines:
        return

    async def pace(_: int) -> None:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)

    together, apart = Script(lines), Paced(lines, pace)
    executor = Turner()
    expected, found = play(together, max_turns=3), play(apart, executor, max_turns=3)
    assert [said(trajectory) for trajectory in found] == [said(trajectory) for trajectory in expected]
    assert all(trajectory.stop_reason is not None for trajectory in found)
    assert apart._spoken == [len(trajectory.turns) for trajectory in found], "no turn is sampled twice or lost"
    calls = [
        turn for t in found for turn in t.turns if turn.observation is not None and turn.observation.status == "ok"
    ]
    assert sum(executor.batches) == len(calls), "every call is executed once"
    assert all(len(turn.versions or ()) > 0 for trajectory in found for turn in trajectory.turns)
    assert all(turn.versions is None for trajectory in expected for turn in trajectory.turns)
    assert apart.n_closed == 1


@given(LINES, st.integers(1, 3), st.randoms(use_true_random=False))
def test_it_tells_once_of_each_group_that_has_ended(
    lines: list[list[str | None]], group_size: int, chance: random.Random
) -> None:
    async def pace(_: int) -> None:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)

    samples = [Sample(str(number), "Read.", (Image.new("RGB", (56, 28)),), "K") for number in range(len(lines))]
    of_all = [each for each in lines for _ in range(group_size)]
    for policy in (Script(of_all), Paced(of_all, pace)):
        told: list[tuple[int, Group]] = []

        def after_group(number: int, group: Group, told: list[tuple[int, Group]] = told) -> None:
            assert all(trajectory.stop_reason is not None for trajectory in group.trajectories)
            told.append((number, group))

        options: dict[str, Any] = {"group_size": group_size, "max_turns": 3, "after_group": after_group}
        groups = roll_out(samples, policy, Turner(), Sampling(), **options)
        assert sorted(told, key=lambda each: each[0]) == list(enumerate(groups))


def test_it_tells_of_a_group_while_others_continue() -> None:
    first_has_ended = threading.Event()

    async def pace(index: int) -> None:
        if index == 1:
            assert await asyncio.to_thread(first_has_ended.wait, 60)

    def after_group(number: int, _: Group) -> None:
        if number == 0:
            first_has_ended.set()

    samples = [Sample(name, "Read.", (Image.new("RGB", (56, 28)),), "K") for name in "ab"]
    roll_out(samples, Paced([[ANSWER], [ANSWER]], pace), Turner(), Sampling(), after_group=after_group)


def test_a_batching_session_speaks_in_the_callers_thread_with_rows_in_order() -> None:
    policy, executor = Script([[CALL, ANSWER], [BROKEN, CALL, ANSWER], [CALL, CALL, ANSWER]]), Turner()
    threads: list[threading.Thread] = []
    sample = policy.sample

    def noted(contexts: Sequence[TokenSequence]) -> list[Completion]:
        threads.append(threading.current_thread())
        return sample(contexts)

    policy.sample = noted  # type: ignore[method-assign]
    play(policy, executor)
    assert policy.asked == [[0, 1, 2], [0, 1, 2], [1, 2]], "a refused call is back first and waits in its row"
    assert executor.batches == [2, 2]
    assert {*threads, *executor.threads} == {threading.current_thread()}


# ---- the pace of each ------------------------------------------------------------------------------------------------


def test_a_trajectory_waits_for_no_other_one() -> None:
    first_is_done = asyncio.Event()

    async def pace(index: int) -> None:
        if index == 1:
            await first_is_done.wait()

    policy = Paced([[CALL, CALL, ANSWER], [ANSWER]], pace)
    spoken = policy._speak

    def speak(index: int) -> Completion:
        completion = spoken(index)
        if policy._spoken[0] == 3:
            first_is_done.set()
        return completion

    policy._speak = speak  # type: ignore[method-assign]
    trajectories = play(policy)
    assert [len(trajectory.turns) for trajectory in trajectories] == [3, 1]


def test_calls_that_come_while_tools_run_are_the_next_batch() -> None:
    tools_run, others_wait = threading.Event(), threading.Event()

    class Slow(Turner):
        def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
            if not self.batches:
                tools_run.set()
                assert others_wait.wait(60)
            return super().execute(requests)

    n_called = 0

    async def pace(index: int) -> None:
        nonlocal n_called
        if index == 0:
            return
        while not tools_run.is_set():
            await asyncio.sleep(0.001)
        n_called += 1
        if n_called == 3:
            asyncio.get_running_loop().call_later(0.05, others_wait.set)

    policy, executor = Paced([[CALL, ANSWER]] * 4, pace), Slow()
    play(policy, executor)
    assert executor.batches == [1, 3]
    assert executor.threads == {threading.current_thread()}
    assert policy.threads.isdisjoint({threading.current_thread()})


QUICK = format_call("Turned.", ToolCall("result = image.transpose(3)", ""))


class Sorting(Turner):
    """Runs `QUICK` without a worker; other calls end when `is_over` is set."""

    def __init__(self, is_over: threading.Event) -> None:
        super().__init__()
        self.is_over = is_over
        self.here: list[threading.Thread] = []

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        assert self.is_over.wait(60)
        return super().execute(requests)

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        self.here.append(threading.current_thread())
        return [Observation("ok", text="here") if "transpose" in request.code else None for request in requests]


def test_a_call_does_not_wait_for_the_slowest_of_its_batch() -> None:
    goes_on = threading.Event()

    class Telling(Turner):
        def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
            if len(requests) == 2:
                assert tell is not None
                tell(1, Observation("ok", text="told"))
                assert goes_on.wait(60), "its next turn waits for the other call"
            return super().execute(requests)

    policy, executor = Paced([[CALL, ANSWER], [CALL, CALL, ANSWER]]), Telling()
    spoken = policy._speak

    def speak(index: int) -> Completion:
        if index == 1 and policy._spoken[1] == 1:
            goes_on.set()
        return spoken(index)

    policy._speak = speak  # type: ignore[method-assign]
    slow, quick = play(policy, executor)
    assert [turn.observation.text for turn in quick.turns if turn.observation] == ["told", ""], "told once, and first"
    assert [turn.observation.text for turn in slow.turns if turn.observation] == [""]
    assert executor.batches == [2, 1]


def test_calls_that_take_no_worker_do_not_wait_for_those_that_do() -> None:
    is_over = threading.Event()
    policy, executor = Paced([[CALL, ANSWER], [QUICK, QUICK, ANSWER]]), Sorting(is_over)
    spoken = policy._speak

    def speak(index: int) -> Completion:
        if index == 1 and policy._spoken[1] == 2:
            is_over.set()  # the other call still runs
        return spoken(index)

    policy._speak = speak  # type: ignore[method-assign]
    slow, quick = play(policy, executor)
    assert [turn.observation.text for turn in quick.turns if turn.observation] == ["here"] * 2
    assert [turn.observation.text for turn in slow.turns if turn.observation] == [""]
    assert executor.batches == [1]
    assert executor.threads == {threading.current_thread()}
    assert threading.current_thread() not in executor.here


def test_a_batching_session_has_all_of_a_turns_calls_in_one_batch() -> None:
    is_over = threading.Event()
    is_over.set()
    executor = Sorting(is_over)
    play(Script([[CALL, ANSWER], [QUICK, ANSWER]]), executor)
    assert (executor.batches, executor.here) == ([2], [])


def test_what_fails_in_the_other_thread_is_raised() -> None:
    class Broken(Turner):
        def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
            raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        play(Paced([[CALL, ANSWER]] * 2), Broken())


def test_it_runs_inside_a_running_loop() -> None:
    async def handle() -> list[Trajectory]:
        return play(Paced([[CALL, ANSWER]])) + play(Script([[CALL, ANSWER]]))

    assert [trajectory.stop_reason for trajectory in asyncio.run(handle())] == [StopReason.ANSWERED] * 2


def test_a_trajectory_that_is_no_longer_wanted_is_left_as_it_is() -> None:
    policy = Paced([[CALL, CALL, ANSWER]])
    sample = Sample("a", "What?", (Image.new("RGB", (56, 28)),), "K")
    trajectory = Trajectory(sample, tokens=policy.conversation.start(sample))
    trajectory.images = [*trajectory.tokens.images]
    seen: list[tuple[int, bool]] = []

    def after_turn(one: Trajectory) -> bool:
        seen.append((len(one.turns), one.turns[-1].observation is not None))
        return len(one.turns) < 2

    drive([trajectory], policy.open_session(Sampling()), policy.conversation, Turner(), 4, after_turn)
    assert seen == [(1, True), (2, True)]
    assert trajectory.stop_reason is None
    assert policy.n_closed == 1


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_engine_ends_all_and_is_raised_as_it_is() -> None:
    cause = OSError("refused")

    async def pace(index: int) -> None:
        if index == 1:
            raise EngineError("The engine is gone. Start it.") from cause
        await asyncio.sleep(3600)

    policy = Paced([[ANSWER]] * 3, pace)
    with pytest.raises(EngineError, match=r"The engine is gone\. Start it\.") as caught:
        play(policy)
    assert caught.value.__cause__ is cause
    assert sorted(policy.cancelled) == [0, 2]
    assert policy.n_closed == 1


def test_a_turn_that_the_client_cancels_is_an_error_and_no_lost_trajectory() -> None:
    async def pace(index: int) -> None:
        if index == 0:
            raise asyncio.CancelledError

    with pytest.raises(EngineError, match="canceled a turn"):
        play(Paced([[ANSWER]] * 2, pace))


@pytest.mark.parametrize("policy", [Script([[CALL, ANSWER]] * 2), Paced([[CALL, ANSWER]] * 2)], ids=["batched", "own"])
def test_what_the_executor_raises_is_raised(policy: Script) -> None:
    class Broken(Turner):
        def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
            raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        play(policy, Broken())
    assert getattr(policy, "n_closed", 1) == 1


def interrupt_the_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_this_thread() -> None:
    """Signal this thread: the main thread's wait is not woken, as if the signal came just before the wait."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("interrupt", [interrupt_the_process, interrupt_this_thread])
def test_an_interrupt_cancels_turns_and_closes_the_session(interrupt: Callable[[], None]) -> None:
    async def pace(index: int) -> None:
        if index == 2:
            interrupt()
        await asyncio.sleep(3600)

    policy = Paced([[ANSWER]] * 3, pace)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            play(policy)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(policy.cancelled) == [0, 1, 2]
    assert policy.n_closed == 1


@pytest.mark.parametrize("is_early", [True, False])
def test_another_thread_stops_it(is_early: bool) -> None:
    stop: Future[None] = Future()

    async def pace(index: int) -> None:
        if not is_early:
            stop.set_result(None)
        await asyncio.sleep(3600)

    if is_early:
        stop.set_result(None)
    policy = Paced([[ANSWER]], pace)
    with pytest.raises(CancelledError):
        play(policy, stop=stop)
    assert policy.n_closed == 1
