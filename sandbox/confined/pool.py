"""Assigns tasks to worker processes, enforces deadlines and budgets, and returns the answer of each worker."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe, wait
from typing import Any, Generic

from sandbox.confined import wire
from sandbox.confined.copies import Copies
from sandbox.confined.tasks import Task, TaskAnswer, W, Workers
from sandbox.images import Budget, check_size
from sandbox.types import Limits, Status

#: Number of workers that may be kept in any case; beyond it, the least recently used worker may be ended.
_MAX_KEPT = 64
#: Largest number of bytes of images that one task may be shown.
_MAX_SHOWN = 512 * 2**20

CLOSED = "The code was not run: the executor is closed."


@dataclass
class _Job(Generic[W]):
    index: int
    task: Task
    worker: W
    started: float
    deadline: float
    ready_s: float


class Pool(Generic[W]):
    """A pool of workers. Threads may share it: their batches then run one after the other.

    Args:
        start: Starts the maker of workers; called again if the maker has died.
        workers: Number of tasks that run at once.
        limits: Limits of one task.
        n_ready: Largest number of workers that wait for the next task.
        reuses: Whether a worker that answered may serve any other task. Only for workers that run no code of a policy.

    Attributes:
        copies: Memory for copies of results.
    """

    def __init__(
        self, start: Callable[[], Workers[W]], workers: int, limits: Limits, n_ready: int = 0, *, reuses: bool = False
    ) -> None:
        self._start, self._n_workers, self._limits = start, workers, limits
        self._n_ready, self._reuses = n_ready, reuses
        self._lock = threading.Lock()
        self._ready: deque[W] = deque()
        self._kept: OrderedDict[str, W] = OrderedDict()
        self.copies = Copies()
        self._is_closed = False
        self._woken, self._wake = Pipe(duplex=False)
        self._workers: Workers[W] = start()

    @property
    def level(self) -> str:
        """The confinement of newly made workers."""
        return self._workers.title

    def is_kept(self, name: str) -> bool:
        """Whether a worker is kept under this name."""
        return name in self._kept

    def close(self) -> None:
        """End every worker at once, even a busy one; tasks of other threads are then answered as rejected."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake.send_bytes(b"x")
        with self._lock:
            self._workers.close()
            self._forget()

    def disown(self) -> None:
        """Close this process's handles, in a forked child that must leave its parent's workers alone."""
        if not self._is_closed:
            self._is_closed = True
            self._workers.disown()
            self._forget()

    def _forget(self) -> None:
        self._ready.clear()
        self._kept.clear()
        if self._is_closed:
            self._woken.close()
            self._wake.close()

    def run(self, tasks: Sequence[Task], budget: Budget) -> Generator[tuple[int, TaskAnswer], None, None]:
        """Run every task; yields index and answer of each as they come. Tasks of one kept worker run in order."""
        with self._lock:
            self.revive()
            batch = _Batch(self, tasks, budget)
            try:
                yield from batch.answers()
            finally:
                batch.abandon()
                if not self._is_closed:
                    self._replenish(self._n_ready)

    def revive(self) -> None:
        """Start the maker of workers again if it has died; no task may be active."""
        if not self._is_closed and not self._workers.keep_up():
            self._ready.clear()
            self._kept.clear()
            self._workers.close()
            self._workers = self._start()

    def take(self, name: str) -> W | None:
        """A ready worker that has seen nothing that the next task must not see; None if it died.

        Raises:
            OSError: No worker can be made.
        """
        if name and (kept := self._kept.get(name)) is not None:
            self._kept.move_to_end(name)
            if self._workers.is_quiet(kept):
                return kept
            self.drop(kept, name)
        worker = self._ready.popleft() if self._ready else self._workers.spawn()
        try:
            is_ready = self._workers.await_ready(worker)
        except OSError:
            self.drop(worker)
            raise
        if not is_ready:
            self.drop(worker)
            return None
        if name:
            self._kept[name] = worker
            if len(self._kept) > max(_MAX_KEPT, 2 * self._n_workers):
                self._workers.kill(self._kept.popitem(last=False)[1])
        return worker

    def give_back(self, worker: W, name: str, *, has_failed: bool, keeps_inputs: bool) -> None:
        """Keep, pause or end a worker that answered."""
        if keeps_inputs:
            self._workers.leave_inputs(worker)
        if self._reuses:
            self._ready.appendleft(worker)
        elif name and not has_failed:
            self._workers.pause(worker)
        else:
            self.drop(worker, name)

    def drop(self, worker: W, name: str = "") -> None:
        """End a worker, and with it everything that it kept under its name."""
        if self._kept.get(name) is worker:
            del self._kept[name]
        with contextlib.suppress(OSError):
            self._workers.kill(worker)

    def _replenish(self, n_needed: int) -> None:
        """Start workers for the next tasks, at a time when no task waits for the processor."""
        with contextlib.suppress(OSError):
            while len(self._ready) < min(n_needed, self._n_ready):
                self._ready.append(self._workers.spawn())


class _Batch(Generic[W]):
    """The tasks of one call of `Pool.run`, during which the pool's lock is held."""

    def __init__(self, pool: Pool[W], tasks: Sequence[Task], budget: Budget) -> None:
        self._pool, self._budget = pool, budget
        self._waiting = deque(enumerate(tasks))
        self._active: dict[Any, _Job[W]] = {}
        self._answered: deque[_Job[W]] = deque()

    def answers(self) -> Iterator[tuple[int, TaskAnswer]]:
        """Yield index and answer of each task, as they come."""
        pool = self._pool
        while self._waiting or self._active:
            if pool._is_closed:
                yield from self._reject()
                return
            yield from self._deal()
            pool._replenish(len(self._waiting))
            yield from self._await()
            yield from self._deal()  # workers continue while their replies are read
            while self._answered:
                job = self._answered.popleft()
                yield job.index, self._finish(job)

    def abandon(self) -> None:
        """End the workers of tasks whose answers nobody waits for any more."""
        for job in (*self._active.values(), *self._answered):
            self._pool.drop(job.worker, job.task.keep)

    def _reject(self) -> Iterator[tuple[int, TaskAnswer]]:
        indices = [job.index for job in self._active.values()] + [index for index, _ in self._waiting]
        self._waiting.clear()
        for index in indices:
            yield index, TaskAnswer("rejected", self._pool.level, CLOSED)

    def _deal(self) -> Iterator[tuple[int, TaskAnswer]]:
        """Hand tasks to workers until all are busy."""
        for _ in range(len(self._waiting)):
            if len(self._active) >= self._pool._n_workers:
                return
            index, task = self._waiting.popleft()
            busy = {job.task.keep for job in (*self._active.values(), *self._answered)}
            if task.keep and task.keep in busy:
                self._waiting.append((index, task))
                continue
            if (fault := _unfit(task)) is not None:
                yield index, TaskAnswer("rejected", self._pool.level, fault)
                continue
            started = time.perf_counter()
            fault = self._begin(index, task) if self._pool._workers.keep_up() else "its maker died"
            if fault and not self._pool._workers.keep_up():
                if self._active or self._answered:  # they must end before workers can be made again
                    self._waiting.appendleft((index, task))
                    return
                self._pool.revive()
                fault = self._begin(index, task)
            if fault:
                yield index, self._crash(f"The sandbox could not take the code: {fault}.", started)

    def _begin(self, index: int, task: Task) -> str:
        """Hand a task to a worker; returns "" or the reason why that is impossible."""
        try:
            return "" if self._give(index, task) else "its process did not start"
        except OSError as error:
            return error.strerror or str(error)

    def _give(self, index: int, task: Task) -> bool:
        asked = time.perf_counter()
        worker = self._pool.take(task.keep)
        if worker is None:
            return False
        try:
            limits = self._pool._limits
            self._pool._workers.send(worker, task.payload, task.images, task.chosen, limits.text_chars)
        except OSError:
            self._pool.drop(worker, task.keep)
            raise
        started = time.perf_counter()
        deadline = started + (limits.wall_s if task.wall_s is None else task.wall_s)
        self._active[worker.channel] = _Job(index, task, worker, started, deadline, started - asked)
        return True

    def _await(self) -> Iterator[tuple[int, TaskAnswer]]:
        """Wait for a reply, a deadline, or the end of the pool."""
        if not self._active:
            return
        timeout = min(job.deadline for job in self._active.values()) - time.perf_counter()
        for channel in _readable([*self._active, self._pool._woken], max(0.0, timeout)):
            if channel in self._active:
                self._answered.append(self._active.pop(channel))
        now = time.perf_counter()
        for channel, job in list(self._active.items()):
            if now >= job.deadline:
                del self._active[channel]
                self._pool.drop(job.worker, job.task.keep)
                text = f"The code ran longer than {job.deadline - job.started:g} s and was stopped."
                yield (
                    job.index,
                    TaskAnswer("timeout", self._pool.level, text, wall_s=now - job.started, ready_s=job.ready_s),
                )

    def _finish(self, job: _Job[W]) -> TaskAnswer:
        try:
            return self._read(job)
        except Exception as error:  # noqa: BLE001 - one unreadable answer must not end the batch
            self._pool.drop(job.worker, job.task.keep)
            return self._crash(f"The sandbox could not read the result: {error}.", job.started)

    def _read(self, job: _Job[W]) -> TaskAnswer:
        workers = self._pool._workers
        reply = workers.receive(job.worker)
        if reply is None:
            text = "The process that ran the code sent an invalid reply and was ended."
            if job.worker.has_hung_up:
                text = _cause(workers.exit_status(job.worker))
            self._pool.drop(job.worker, job.task.keep)
            return self._crash(text, job.started)
        fault, pixels = None, None
        if reply.outcome in (wire.IMAGE, wire.UNFINISHED) and min(reply.size):
            fault = None if reply.rest else check_size(reply.size, self._pool._limits)
            fault = fault or self._budget.refuse(reply.size)
            pixels = None if fault else self._pool.copies.of(workers.result(job.worker, reply.size))
        wall_s = time.perf_counter() - job.started
        status: Status = "error" if fault else "ok"
        answer = TaskAnswer(status, self._pool.level, reply.text + (fault or ""), reply, pixels, wall_s, job.ready_s)
        has_failed = reply.outcome == wire.FAILED
        self._pool.give_back(job.worker, job.task.keep, has_failed=has_failed, keeps_inputs=reply.keeps)
        return answer

    def _crash(self, text: str, started: float) -> TaskAnswer:
        return TaskAnswer("crash", self._pool.level, text, wall_s=time.perf_counter() - started)


def _readable(channels: Sequence[Any], timeout_s: float) -> Sequence[Any]:
    """The channels that can be read, after waiting for at most `timeout_s`."""
    if not hasattr(select, "poll") or not all(hasattr(channel, "fileno") for channel in channels):
        return wait(channels, timeout_s)
    poll, numbers = select.poll(), {channel.fileno(): channel for channel in channels}
    for number in numbers:
        poll.register(number, select.POLLIN)
    return [numbers[number] for number, _ in poll.poll(math.ceil(1000 * timeout_s))]


def _unfit(task: Task) -> str | None:
    """The reason why no worker can take a task; None if one can."""
    n_bytes = sum(4 * image.width * image.height for image in task.images)
    if len(task.images) > wire.MAX_IMAGES or n_bytes > _MAX_SHOWN:
        return f"The code was not run: the images that it may use are too large, or more than {wire.MAX_IMAGES}."
    if len(task.payload) > wire.MAX_PAYLOAD:
        return f"The code was not run: it has more than {wire.MAX_PAYLOAD} bytes."
    return None


def _cause(status: int | None) -> str:
    """How a worker ended, in words that help to fix the code."""
    if status is None or not os.WIFSIGNALED(status):
        return "The process that ran the code ended without a result."
    causes = {
        "SIGSYS": "it made a forbidden system call",
        "SIGKILL": "it was killed, perhaps for memory",
        "SIGXCPU": "it used too much processor time",
        "SIGSEGV": "it accessed memory that it does not have",
        "SIGABRT": "a library gave up",
        "SIGFPE": "a library divided by zero",
    }
    name = signal.Signals(os.WTERMSIG(status)).name
    return f"The process that ran the code died: {causes.get(name, name)}."
