"""The only door: requests in, observations out, in order. Picks the lane and verifies the effect."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, get_args

from sandbox.confined.levels import LEVELS, Level
from sandbox.images import check_size
from sandbox.lanes.lifted import faulty, observed, run_lifted
from sandbox.lanes.models import ModelLane
from sandbox.lanes.plain_process import ProcessLane, lacks_confinement
from sandbox.lift.reader import Fault, Lifted, Unliftable, lift
from sandbox.messages import clean, not_lifted
from sandbox.operations.program import ToolProgram
from sandbox.requests import check_images, is_worth_threads, refuse
from sandbox.threads import count_cores, spread
from sandbox.types import ConfinementError, Limits, Observation, ToolRequest

Lane = Literal["auto", "pillow", "kornia", "confined"]
Fresh = Literal["call", "episode"]

_EXECUTORS: weakref.WeakSet[ToolExecutor] = weakref.WeakSet()


class ToolExecutor:
    """Executes tool calls; what the code does, however wrong, comes back as an `Observation`.

    It may be shared by threads, pickled, and used in a forked child, which then starts workers of its own.

    Args:
        lane: "auto": snippets that lift run in process by our own calls, others in confined workers. "pillow": others
            are rejected. "kornia": as "auto", and whatever the tensor lane can do runs there. "confined": everything
            runs in confined workers.
        device: Where the tensor lane runs, as torch names it ("cuda", "cuda:1", "cpu"). With lane "auto" it gets the
            calls for which it is cheaper, by measured costs; None: it gets none and torch is not imported. With lane
            "kornia" None is the first accelerator, or else the CPU. Images that it made are `TensorImage`s.
        workers: How many confined calls run at once; by default one for each of this process's cores.
        limits: What one call may use.
        min_level: The weakest confinement to accept (see sandbox/README.md).
        fresh: "call": every confined call gets a new process. "episode": the calls of an episode share one, and their
            variables live on.
        allow_unsafe: Accept `min_level="process"`, which confines nothing but resources.

    Raises:
        ValueError: For an argument that is none of these, or a device that this machine does not have.
        ConfinementError: With lane "confined", where the machine does not give `min_level`. With lane "auto", code that
            does not lift is then rejected.
    """

    def __init__(
        self,
        lane: Lane = "auto",
        workers: int | None = None,
        limits: Limits | None = None,
        min_level: Level = "syscall",
        fresh: Fresh = "call",
        allow_unsafe: bool = False,
        device: str | None = None,
    ) -> None:
        for name, value, known in (
            ("lane", lane, get_args(Lane)),
            ("min_level", min_level, LEVELS),
            ("fresh", fresh, get_args(Fresh)),
        ):
            if value not in known:
                raise ValueError(f"Expected {name} to be one of {', '.join(known)} but got {name}={value!r}")
        if workers is not None and workers < 1:
            raise ValueError(f"Expected at least one worker but got workers={workers}")
        if min_level == "process" and not allow_unsafe:
            raise ValueError(
                "min_level='process' confines no file, no network and no process: it takes allow_unsafe=True"
            )
        if device is not None and lane not in ("auto", "kornia"):
            raise ValueError(
                f"Expected device=None with lane={lane!r}, which uses no device, but got device={device!r}"
            )
        self._arguments = (lane, workers, limits, min_level, fresh, allow_unsafe, device)
        self._lane, self._limits, self._min_level, self._fresh = lane, limits or Limits(), min_level, fresh
        self._workers = workers or count_cores()
        self._lock = threading.RLock()
        self._confined: Any = None
        self._missing = ""
        self._is_closed = False
        self._models = ModelLane()
        self._tensors: Any = None
        if device is not None or lane == "kornia":
            from sandbox.lanes.tensor.door import TensorLane

            self._tensors = TensorLane(device, is_forced=lane == "kornia")
        _EXECUTORS.add(self)
        if lane == "confined":
            self._start()

    def __reduce__(self) -> tuple[type[ToolExecutor], tuple[Any, ...]]:
        return ToolExecutor, self._arguments

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; it may be called twice. Code that does not lift is rejected from here on."""
        with self._lock:
            self._is_closed = True
            confined, self._confined = self._confined, None
            if confined is not None:
                confined.close()
        self._models.close()

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run every request; one observation for each, in order.

        Args:
            requests: Code and images; a request that cannot be served gets an observation that says why.

        Returns:
            Observations with RGB images. Never raises for what a request holds.
        """
        taken = self._run_tensors(requests) if self._tensors is not None else {}

        def served(index: int) -> Observation | None:
            return taken.get(index) or self._guarded(requests[index], self._serve)

        indices = range(len(requests))
        observations = spread(served, indices) if is_worth_threads(requests) else [served(index) for index in indices]
        left = [index for index, observation in enumerate(observations) if observation is None]
        if left:
            for index, observation in zip(left, self._run_confined([requests[index] for index in left]), strict=True):
                observations[index] = observation
        seen = self._models.run(requests, observations, self._limits)
        if self._is_closed:  # what a call after `close` started ends with it
            self._models.close()
        return [replace(each, text=clean(each.text, self._limits.text_chars)) for each in seen]

    def _guarded(self, request: ToolRequest, serve: Callable[[ToolRequest], Observation | None]) -> Observation | None:
        start = time.perf_counter()
        try:
            observation = refuse(request, self._limits) or serve(request)
        except Exception as error:  # noqa: BLE001 - a bad request is data: nothing that it holds may end a training step
            observation = Observation("error", text=f"The request could not be served: {type(error).__name__}: {error}")
        return observation and replace(observation, wall_s=time.perf_counter() - start)

    def _run_tensors(self, requests: Sequence[ToolRequest]) -> dict[int, Observation]:
        """Observations, by index, of the requests that the tensor lane takes; what it leaves is served as usual."""
        start = time.perf_counter()
        calls = {}
        for index, request in enumerate(requests):
            try:
                program = self._runnable(request)
            except Exception:  # noqa: BLE001, S112 - `_serve` meets it again and says what it is
                continue
            if program is not None:
                calls[index] = (
                    program,
                    request.images[request.image_index if program.source is None else program.source],
                )
        outcomes = self._tensors.run(list(calls.values()))
        wall_s = time.perf_counter() - start
        return {
            index: replace(observed(program, outcome, "kornia"), wall_s=wall_s)
            for (index, (program, _)), outcome in zip(calls.items(), outcomes, strict=True)
            if outcome is not None
        }

    def _runnable(self, request: ToolRequest) -> ToolProgram | None:
        """The program of a request that lifts and whose result is allowed."""
        if refuse(request, self._limits) is not None or self._keeps_state(request.episode):
            return None
        lifted = self._read(request)
        if not isinstance(lifted, ToolProgram) or not lifted.has_result or (self._fresh == "episode" and lifted.binds):
            return None
        final = lifted.sizes[-1]
        return lifted if final is not None and check_size(final, self._limits) is None else None

    def _serve(self, request: ToolRequest) -> Observation | None:
        """Run what lifts; None for what the confined lane is to run."""
        if self._lane == "confined" or self._keeps_state(request.episode):
            check_images(request)
            return None
        lifted = self._read(request)
        if isinstance(lifted, Fault):
            return faulty(lifted, request)
        if isinstance(lifted, ToolProgram):
            if self._fresh == "episode" and lifted.binds:
                lifted = Unliftable("a variable that a later call may use")
            elif (observation := run_lifted(lifted, request, self._limits)) is not None:
                return observation
            else:
                lifted = Unliftable("an argument of a call", lifted.operations[-1].line)
        if self._lane in ("auto", "kornia") and self._start():
            check_images(request)
            return None
        return Observation("rejected", text=not_lifted(lifted.reason, lifted.line))

    def _read(self, request: ToolRequest) -> Lifted:
        sizes = tuple(image.size for image in request.images)
        return lift(request.code, sizes, request.image_index, persists=self._fresh == "episode")

    def _keeps_state(self, episode: str) -> bool:
        with self._lock:
            return self._confined is not None and self._fresh == "episode" and self._confined.has_state(episode)

    def _start(self) -> bool:
        """Start the confined lane; False where the machine cannot give it, or the executor is closed."""
        with self._lock:
            if self._confined is not None or self._missing or self._is_closed:
                return self._confined is not None
            try:
                if lacks_confinement():
                    self._confined = ProcessLane(self._workers, self._limits, self._min_level, self._fresh)
                else:
                    from sandbox.lanes.confined import ConfinedLane

                    self._confined = ConfinedLane(self._workers, self._limits, self._min_level, self._fresh)
            except (ConfinementError, OSError, AttributeError, ImportError) as error:
                if self._lane == "confined":
                    raise ConfinementError(str(error)) from error
                self._missing = str(error)
                warnings.warn(f"Code that does not lift will be rejected. {error}", RuntimeWarning, stacklevel=2)
            return self._confined is not None

    def _run_confined(self, requests: list[ToolRequest]) -> list[Observation]:
        with self._lock:
            if not self._start():
                return [Observation("rejected", text="The code was not run: the executor is closed.")] * len(requests)
            try:
                observations: list[Observation] = self._confined.run(requests)
            except Exception as error:  # noqa: BLE001 - whatever fails here must not end a training step
                text = f"The sandbox failed: {type(error).__name__}: {error}"
                return [Observation("crash", text=text, lane="confined")] * len(requests)
            return observations

    def leave_to_parent(self) -> None:
        """Let go of the parent's workers, in a forked child."""
        self._lock = threading.RLock()
        self._models = ModelLane()
        confined, self._confined = self._confined, None
        if confined is not None:
            confined.disown()


def _after_fork() -> None:
    for executor in list(_EXECUTORS):
        executor.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
