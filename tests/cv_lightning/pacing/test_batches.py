"""Questions of many coroutines are answered in batches, in order, and no answer is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cv_lightning.pacing.batches import Barrier, Batches, SortedCalls
from cv_lightning.types import TokenSequence
from sandbox import Observation, ToolRequest

Tell = Callable[[int, Any], None]


def batches(answer: Callable[[Sequence[int], Tell], Sequence[Any]]) -> Batches[int, Any]:
    """Batches that a thread of the running event loop answers."""
    return Batches(partial(asyncio.get_running_loop().run_in_executor, None), answer)


def test_questions_of_one_moment_are_one_batch_and_those_that_come_meanwhile_the_next() -> None:
    seen: list[list[int]] = []
    may_end = threading.Event()

    def answer(questions: Sequence[int], tell: Tell) -> list[int]:
        seen.append([*questions])
        if len(seen) == 1:
            assert may_end.wait(20)
        return [10 * question for question in questions]

    async def ask() -> list[int]:
        asked = batches(answer)
        first = [asyncio.ensure_future(asked.ask(number)) for number in range(3)]
        while not seen:
            await asyncio.sleep(0.001)
        later = [asyncio.ensure_future(asked.ask(number)) for number in range(3, 5)]
        await asyncio.sleep(0)
        may_end.set()
        return await asyncio.gather(*first, *later)

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40]
    assert seen == [[0, 1, 2], [3, 4]]


def test_an_answer_that_is_told_does_not_wait_for_its_batch() -> None:
    may_end = threading.Event()

    def answer(questions: Sequence[int], tell: Tell) -> list[str]:
        tell(1, "told")
        assert may_end.wait(20)
        return ["whole"] * len(questions)

    async def ask() -> list[str]:
        asked = batches(answer)
        slow, quick = (asyncio.ensure_future(asked.ask(number)) for number in range(2))
        early = await quick
        assert not slow.done()
        may_end.set()
        return [await slow, early]

    assert asyncio.run(ask()) == ["whole", "told"]


def test_what_fails_is_raised_by_every_question_of_the_batch_and_the_next_one_is_answered() -> None:
    def answer(questions: Sequence[int], tell: Tell) -> Sequence[int]:
        if 0 in questions:
            raise OSError("gone")
        return questions

    async def ask() -> None:
        asked = batches(answer)
        failed = await asyncio.gather(asked.ask(0), asked.ask(1), return_exceptions=True)
        assert [type(each) for each in failed] == [OSError, OSError]
        assert await asked.ask(2) == 2

    asyncio.run(ask())


def test_a_question_that_was_given_up_costs_the_others_nothing() -> None:
    async def ask() -> int:
        asked = batches(lambda questions, tell: questions)
        first, second = (asyncio.ensure_future(asked.ask(number)) for number in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return int(await second)

    assert asyncio.run(ask()) == 1


class Executor:
    """Runs even requests without a worker; odd requests take a worker."""

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        return [None if int(one.code) % 2 else Observation("ok", text=f"here {one.code}") for one in requests]

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        return [Observation("ok", text=f"worker {one.code}") for one in requests]


def test_calls_that_take_no_worker_are_run_in_their_own_thread() -> None:
    executor = Executor()

    async def ask() -> list[Observation]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            others: Batches[ToolRequest, Observation] = Batches(
                partial(loop.run_in_executor, None), lambda requests, tell: executor.execute(requests)
            )
            calls = SortedCalls(thread, executor, others)
            return await asyncio.gather(*(calls.ask(ToolRequest(str(number), [])) for number in range(4)))

    assert [seen.text for seen in asyncio.run(ask())] == ["here 0", "worker 1", "here 2", "worker 3"]


class Caller:
    """Runs each job at once."""

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(job())
        return future


class Session:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def sample(self, contexts: Sequence[TokenSequence]) -> list[int]:
        self.batches.append([context.ids[0] for context in contexts])
        return self.batches[-1]


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_barrier_waits_for_all_that_live_and_keeps_their_order(leaves_first: bool) -> None:
    session: Any = Session()
    contexts = [TokenSequence([number], [False], [0.0]) for number in range(3)]

    async def ask() -> list[Any]:
        caller: Any = Caller()
        barrier = Barrier(caller, session, contexts)
        if leaves_first:
            barrier.leave(None)
        asked = [asyncio.ensure_future(barrier.ask(contexts[row])) for row in (2, 0)]
        await asyncio.sleep(0.01)
        assert session.batches == ([[0, 2]] if leaves_first else [])
        if not leaves_first:
            barrier.leave(None)
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == [2, 0]
    assert session.batches == [[0, 2]]
