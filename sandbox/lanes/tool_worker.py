"""Runs lifted programs that may take long, or much memory, in a warm process of ours that can be ended.

A tool worker runs our own calls with checked values, never a policy's text, so it serves call after call. Programs
reach it as data. If the system can confine, the process is confined in the same way as a worker for code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from PIL import Image

from sandbox.confined.pool import CLOSED, Pool
from sandbox.confined.programs import encode, read_effects
from sandbox.confined.tasks import Task, TaskAnswer
from sandbox.effects.outcome import Outcome
from sandbox.images import Budget
from sandbox.lanes.confined import LONG_LIFE_S
from sandbox.lanes.lane import Lifted
from sandbox.lanes.pillow import observed
from sandbox.lanes.plain_process import PlainWorkers, lacks_confinement
from sandbox.operations.program import ToolProgram
from sandbox.types import ConfinementError, Limits, Observation

#: Extra seconds that one claim may take, as long as the batch has any left.
_EXTRA_S = 0.25


class ProofTime:
    """Time budget for the claims of one batch; safe to share between threads.

    A claim may run for twice the time that its call took, as measured by the trainer. In addition, the batch has
    `spare_s`. So even false claims cost little more than the calls did. Once `spare_s` is spent, claims are dropped.

    Args:
        spare_s: Extra seconds for the whole batch.
    """

    def __init__(self, spare_s: float) -> None:
        self._most_s = self._left = spare_s
        self._lock = threading.Lock()
        self._has_ended_worker = False

    def run_here(self, prove: Callable[[], Outcome | None], call_s: float) -> Outcome | None:
        """Prove a claim that is bounded by construction, in this thread; None if no time is left.

        `call_s` is the duration of the call in seconds.
        """
        if self._left <= 0:
            return None
        started = time.thread_time()
        outcome = prove()
        with self._lock:
            self._left -= max(0.0, time.thread_time() - started - 2 * call_s)
        return outcome

    def run(self, lane: ToolWorkerLane, program: ToolProgram, image: Image.Image, call_s: float) -> Outcome | None:
        """Prove any claim in a tool worker; None if it takes too long."""
        with self._lock:
            if self._left <= 0:
                return None
            extra = min(self._left, _EXTRA_S)
            self._left -= extra
        wall_s = min(2 * call_s + extra, self._most_s)
        ((answer, outcome),) = lane.answers([(program, image)], wall_s=wall_s)
        with self._lock:
            self._left += min(extra, max(0.0, wall_s - answer.wall_s))
            if self._has_ended_worker:  # a claim ended the worker, so claims pay for the next one
                self._left -= answer.ready_s
            self._has_ended_worker = answer.status in ("timeout", "crash")
        return outcome


class ToolWorkerLane:
    """Tool workers, safe to share between threads; the processes start with the first call.

    Args:
        workers: Number of programs that run at once.
        limits: Limits of one program.
    """

    name = "tool_worker"

    def __init__(self, workers: int, limits: Limits) -> None:
        self._workers, self._limits = workers, limits
        self._lock = threading.Lock()
        self._is_closed = False
        self._pool: Pool[Any] | None = None

    def run(self, calls: Sequence[Lifted], budget: Budget | None = None) -> list[Observation | None]:
        """Return the observation of each program, in order; None if it fails: its code must then report the error."""
        answers = self.answers([(call.program, call.image) for call in calls], budget)
        return [_observe(call, *found) for call, found in zip(calls, answers, strict=True)]

    def answers(
        self,
        programs: Sequence[tuple[ToolProgram, Image.Image]],
        budget: Budget | None = None,
        wall_s: float | None = None,
    ) -> list[tuple[TaskAnswer, Outcome | None]]:
        """Run programs on images.

        Args:
            programs: Pairs of a program and the RGB image that it starts from.
            budget: Bytes for all results; None: as in the limits.
            wall_s: Seconds for each program; None: as in the limits.

        Returns:
            For each program, in order, how it ended, and its outcome if no operation failed.
        """
        tasks = [Task(encode(program), [image], wall_s=wall_s) for program, image in programs]
        found: dict[int, tuple[TaskAnswer, Outcome | None]] = {}
        if (pool := self._started()) is None:
            return [(TaskAnswer("rejected", "none", CLOSED), None)] * len(tasks)
        with closing(pool.run(tasks, budget or Budget(self._limits))) as answers:
            for place, answer in answers:
                found[place] = _read(answer)
        return [found[place] for place in range(len(tasks))]

    def _started(self) -> Pool[Any] | None:
        """The pool, started if necessary; None if the lane is closed."""
        with self._lock:
            if self._pool is None and not self._is_closed:
                self._pool = self._confined() or self._plain()
            return self._pool

    def _confined(self) -> Pool[Any] | None:
        if lacks_confinement():
            return None
        from sandbox.confined.client import Zygote

        memory_mb, capacity = self._limits.memory_mb, int(self._limits.result_megapixels * 4e6)

        def start() -> Zygote:
            return Zygote("programs", self._workers, memory_mb, capacity, LONG_LIFE_S)

        try:
            return Pool(start, self._workers, self._limits, reuses=True)
        except (ConfinementError, OSError, AttributeError):
            return None

    def _plain(self) -> Pool[Any]:
        return Pool(lambda: PlainWorkers("programs", self._limits), self._workers, self._limits, reuses=True)

    def close(self) -> None:
        """End every worker at once, even a busy one."""
        with self._lock:
            self._is_closed = True
            pool = self._pool
        if pool is not None:
            pool.close()

    def disown(self) -> None:
        """Forget the parent's processes, in a forked child, which starts its own."""
        self._lock = threading.Lock()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.disown()


def _read(answer: TaskAnswer) -> tuple[TaskAnswer, Outcome | None]:
    if answer.image is None:
        return answer, None
    try:
        return answer, Outcome(answer.image, read_effects(answer.text))
    except ValueError as error:
        return replace(answer, status="crash", text=str(error)), None


def _observe(call: Lifted, answer: TaskAnswer, outcome: Outcome | None) -> Observation | None:
    if outcome is not None:
        return observed(call.program, outcome, ToolWorkerLane.name, answer.wall_s)
    if answer.status == "ok":
        return None
    text = call.program.text + answer.text
    return Observation(answer.status, text=text, lane=ToolWorkerLane.name, level="lifted", wall_s=answer.wall_s)
