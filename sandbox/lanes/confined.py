"""Runs any code in confined workers: deals requests out, keeps deadlines, and makes observations of what comes back."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sandbox.confined import wire
from sandbox.confined.client import Worker, Zygote
from sandbox.confined.copies import Copies
from sandbox.confined.levels import Level
from sandbox.effects.pixels import Pixels
from sandbox.effects.search import Effects, find_effects
from sandbox.images import as_rgb, check_size
from sandbox.messages import hide_paths
from sandbox.types import Fresh, Limits, Observation, ToolRequest

#: Episodes whose worker is kept, at least; beyond, the one that was used longest ago loses its variables.
_MAX_EPISODES = 64
#: Bytes of images that are shown to one call.
_MAX_SHOWN = 512 * 2**20


@dataclass
class _Job:
    """A request in the hands of a worker; its chosen image lies at `source` in the worker's file of inputs."""

    index: int
    request: ToolRequest
    worker: Worker
    source: int
    started: float


class ConfinedLane:
    """A pool of confined workers. Not safe under threads by itself; `ToolExecutor` holds a lock.

    Args:
        workers: How many calls run at once.
        limits: What one call may use.
        min_level: The weakest confinement to accept.
        fresh: "call": every call gets a new process; "episode": the calls of an episode share one, and their variables.
        without: Layers to leave off, to see what each one holds.

    Raises:
        ConfinementError: Where the machine does not give `min_level`.
    """

    name = "confined"

    def __init__(
        self, workers: int, limits: Limits, min_level: Level, fresh: Fresh, without: Sequence[str] = ()
    ) -> None:
        self._without = without
        self._n_workers, self._limits, self._min_level, self._fresh = workers, limits, min_level, fresh
        self._capacity = int(limits.result_megapixels * 4e6)
        self._ready: deque[Worker] = deque()
        self._episodes: OrderedDict[str, Worker] = OrderedDict()
        self._copies = Copies()
        self._zygote = self._start()
        self.level: Level = self._zygote.level or "process"
        if self.level == "process":
            warnings.warn(
                "Code runs without confinement: only its resources are limited.", RuntimeWarning, stacklevel=3
            )

    def _start(self) -> Zygote:
        cpu_s = math.ceil(self._limits.wall_s) + 1 if self._fresh == "call" else 3600
        zygote = Zygote(self._limits.memory_mb, self._capacity, cpu_s, self._without)
        try:
            zygote.require(self._min_level)
        except Exception:
            zygote.close()
            raise
        return zygote

    def has_state(self, episode: str) -> bool:
        """Whether variables of the episode are alive in a worker."""
        return episode in self._episodes

    def close(self) -> None:
        """End every worker."""
        self._forget()
        self._zygote.close()

    def disown(self) -> None:
        """Close this process's handles, in a forked child that must leave its parent's workers alone."""
        self._forget()
        self._zygote.disown()

    def _forget(self) -> None:
        self._ready.clear()
        self._episodes.clear()

    def run(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run every request; one observation for each, in order."""
        if not self._zygote.keep_up():
            self._restart()
        observations: dict[int, Observation] = {}
        waiting = deque(enumerate(requests))
        active: dict[int, _Job] = {}
        answered: deque[_Job] = deque()
        try:
            while waiting or active:
                self._deal(waiting, active, observations)
                self._replenish(len(waiting))
                answered += self._await(active, observations)
                self._deal(waiting, active, observations, answered)  # workers go on while their replies are read
                while answered:
                    job = answered.popleft()
                    observations[job.index] = self._finish(job)
        finally:
            for job in (*active.values(), *answered):
                self._drop(job.worker, job.request)
        self._replenish(2 * self._n_workers)
        return [observations[index] for index in range(len(requests))]

    def _restart(self) -> None:
        self._forget()
        self._zygote.close()
        self._zygote = self._start()

    def _deal(
        self,
        waiting: deque[tuple[int, ToolRequest]],
        active: dict[int, _Job],
        observations: dict[int, Observation],
        answered: Collection[_Job] = (),
    ) -> None:
        """Hand requests to workers until all are busy; the calls of one episode wait for each other."""
        for _ in range(len(waiting)):
            if len(active) >= self._n_workers:
                return
            index, request = waiting.popleft()
            others = (*active.values(), *answered)
            if self._is_kept(request) and any(job.request.episode == request.episode for job in others):
                waiting.append((index, request))
                continue
            if self._shows_too_much(request):
                text = (
                    f"The code was not run: the images that it may use are too large, or more than {wire.MAX_IMAGES}."
                )
                observations[index] = Observation("rejected", text=text, lane="confined", level=self.level)
                continue
            started = time.perf_counter()
            worker = None
            try:
                worker = self._take(request)
                source = None if worker is None else self._send(worker, request)
            except OSError as error:
                source = None
                reason = error.strerror
            else:
                reason = "its process did not start"
            if worker is None or source is None:
                if worker is not None:
                    self._drop(worker, request)
                observations[index] = self._crash(f"The sandbox could not take the code: {reason}.", started)
                continue
            active[worker.channel.fileno()] = _Job(index, request, worker, source, time.perf_counter())

    def _is_kept(self, request: ToolRequest) -> bool:
        """Whether the worker of a request lives on for its episode."""
        return self._fresh == "episode" and request.episode != ""

    def _replenish(self, n_needed: int) -> None:
        """Have workers made ready for the next calls, while no call waits for the processor that this takes."""
        most = 2 * self._n_workers if self._fresh == "call" else 1
        with contextlib.suppress(OSError):
            while len(self._ready) < min(n_needed, most):
                self._ready.append(self._zygote.spawn())

    def _take(self, request: ToolRequest) -> Worker | None:
        """A worker that is confined and has never seen another episode's code."""
        if self._is_kept(request) and request.episode in self._episodes:
            worker = self._episodes[request.episode]
            self._episodes.move_to_end(request.episode)
            if self._zygote.is_quiet(worker):
                return worker
            self._drop(worker, request)
        worker = self._ready.popleft() if self._ready else self._zygote.spawn()
        if not self._zygote.await_ready(worker):
            self._zygote.kill(worker)
            return None
        if self._is_kept(request):
            self._episodes[request.episode] = worker
            if len(self._episodes) > max(_MAX_EPISODES, 2 * self._n_workers):
                _, oldest = self._episodes.popitem(last=False)
                self._zygote.kill(oldest)
        return worker

    def _send(self, worker: Worker, request: ToolRequest) -> int:
        """Send a request; where its chosen image lies in the worker's file of inputs."""
        images, chosen = list(request.images), request.image_index
        if not self._shows_all(request):
            images, chosen = [images[chosen]], 0
        plain = [as_rgb(image) for image in images]
        return self._zygote.send(worker, request.code, plain, chosen, self._limits.text_chars)

    def _shows_all(self, request: ToolRequest) -> bool:
        """Whether the worker gets every image: where the code may name others than the chosen one."""
        return self._fresh == "episode" or "images" in request.code or "image_" in request.code

    def _shows_too_much(self, request: ToolRequest) -> bool:
        """Whether the images that the code may see are too many, or too large, for a worker."""
        shown = request.images if self._shows_all(request) else [request.images[request.image_index]]
        n_bytes = sum(4 * image.width * image.height for image in shown)
        return len(shown) > wire.MAX_IMAGES or n_bytes > _MAX_SHOWN

    def _await(self, active: dict[int, _Job], observations: dict[int, Observation]) -> list[_Job]:
        """Wait for a reply or a deadline; the jobs whose replies are there. Those out of time are seen to."""
        if not active:
            return []
        deadline = min(job.started for job in active.values()) + self._limits.wall_s
        poll = select.poll()
        for descriptor in active:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(max(0, math.ceil((deadline - time.perf_counter()) * 1000)))
        answered = [active.pop(descriptor) for descriptor, _ in events]
        now = time.perf_counter()
        for descriptor, job in list(active.items()):
            if now - job.started >= self._limits.wall_s:
                del active[descriptor]
                self._drop(job.worker, job.request)
                text = f"The code ran longer than {self._limits.wall_s:g} s and was stopped."
                observations[job.index] = Observation(
                    "timeout", text=text, lane="confined", level=self.level, wall_s=now - job.started
                )
        return answered

    def _finish(self, job: _Job) -> Observation:
        reply = self._zygote.receive(job.worker)
        if reply is None:
            text = "The process that ran the code sent what is no reply and was ended."
            if job.worker.has_hung_up:
                text = _cause(self._zygote.exit_status(job.worker))
            self._drop(job.worker, job.request)
            return self._crash(text, job.started)
        observation = self._observe(job, reply)
        if not self._is_kept(job.request) or reply.outcome == wire.FAILED:
            self._drop(job.worker, job.request)
        elif reply.keeps:
            self._zygote.leave_inputs(job.worker)
        return observation

    def _observe(self, job: _Job, reply: wire.Reply) -> Observation:
        wall_s = time.perf_counter() - job.started
        text = hide_paths(reply.text)
        if reply.outcome != wire.IMAGE:
            status: Literal["ok", "error"] = "ok" if reply.outcome == wire.TEXT_ONLY else "error"
            return Observation(status, text=text, lane="confined", level=self.level, wall_s=wall_s)
        fault = check_size(reply.size, self._limits)
        if fault is not None:
            return Observation("error", text=text + fault, lane="confined", level=self.level, wall_s=wall_s)
        copied = self._copies.of(self._zygote.result(job.worker, reply.size))
        size = job.request.images[job.request.image_index].size
        source = self._zygote.source(job.worker, job.source, size)
        found = _effects(wire.pixels(source, size), wire.pixels(copied, reply.size))
        return Observation(
            "ok",
            image=wire.view(copied, reply.size),
            text=text,
            lane="confined",
            level=self.level,
            wall_s=time.perf_counter() - job.started,
            tools=found.tools,
            orientation=found.orientation,
            frame=found.frame,
        )

    def _drop(self, worker: Worker, request: ToolRequest) -> None:
        """End a worker, and with it the variables of its episode."""
        if self._episodes.get(request.episode) is worker:
            del self._episodes[request.episode]
        with contextlib.suppress(OSError):
            self._zygote.kill(worker)

    def _crash(self, text: str, started: float) -> Observation:
        wall_s = time.perf_counter() - started
        return Observation("crash", text=text, lane="confined", level=self.level, wall_s=wall_s)


def _effects(before: Pixels, after: Pixels) -> Effects:
    """What was done, nothing where finding it fails: pixels of one policy must not end the calls of others."""
    try:
        return find_effects(before, after)
    except Exception as error:  # noqa: BLE001 - whatever pixels made it fail
        warnings.warn(f"No effects were found in a result: {error!r}", RuntimeWarning, stacklevel=2)
        return Effects()


def _cause(status: int | None) -> str:
    """How a worker came to its end, in words that help to mend the code."""
    if status is None or os.WIFEXITED(status):
        return "The process that ran the code ended without a result."
    causes = {
        signal.SIGSYS: "it made a forbidden system call",
        signal.SIGKILL: "it was killed, perhaps for memory",
        signal.SIGXCPU: "it used too much processor time",
        signal.SIGSEGV: "it accessed memory that it does not have",
        signal.SIGABRT: "a library gave up",
        signal.SIGFPE: "a library divided by zero",
    }
    number = os.WTERMSIG(status)
    return f"The process that ran the code died: {causes.get(signal.Signals(number), f'signal {number}')}."
