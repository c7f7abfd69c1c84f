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

from PIL import Image, ImageFile

from sandbox.confined.levels import LEVELS, Level
from sandbox.images import as_rgb, check_size
from sandbox.lift import Fault, Lifted, Unliftable, lift
from sandbox.model_lane import ModelLane
from sandbox.pillow_lane import Outcome, run_program
from sandbox.process_lane import ProcessLane, lacks_confinement
from sandbox.program import ToolProgram
from sandbox.texts import NO_RESULT, clean, describe_error, kind_of, not_lifted
from sandbox.threads import count_cores, spread
from sandbox.types import ConfinementError, Limits, Observation, ToolRequest

Lane = Literal["auto", "pillow", "kornia", "confined"]
Fresh = Literal["call", "episode"]

#: Pixels of a batch from which on threads pay.
_MANY_PIXELS = 1 << 20

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
            from sandbox.kornia_lane.door import TensorLane

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
        observations = spread(served, indices) if _is_worth_threads(requests) else [served(index) for index in indices]
        left = [index for index, observation in enumerate(observations) if observation is None]
        if left:
            for index, observation in zip(left, self._run_confined([requests[index] for index in left]), strict=True):
                observations[index] = observation
        return [
            replace(observation, text=clean(observation.text, self._limits.text_chars))
            for observation in self._models.run(requests, observations, self._limits)
        ]

    def _guarded(self, request: ToolRequest, serve: Callable[[ToolRequest], Observation | None]) -> Observation | None:
        start = time.perf_counter()
        try:
            observation = _refuse(request, self._limits) or serve(request)
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
            index: replace(_observed(program, outcome, "kornia"), wall_s=wall_s)
            for (index, (program, _)), outcome in zip(calls.items(), outcomes, strict=True)
            if outcome is not None
        }

    def _runnable(self, request: ToolRequest) -> ToolProgram | None:
        """The program of a request that lifts and whose result is allowed."""
        if _refuse(request, self._limits) is not None or self._keeps_state(request.episode):
            return None
        lifted = self._read(request)
        if not isinstance(lifted, ToolProgram) or not lifted.has_result or (self._fresh == "episode" and lifted.binds):
            return None
        final = lifted.sizes[-1]
        return lifted if final is not None and check_size(final, self._limits) is None else None

    def _serve(self, request: ToolRequest) -> Observation | None:
        """Run what lifts; None for what the confined lane is to run."""
        if self._lane == "confined" or self._keeps_state(request.episode):
            _check_images(request)
            return None
        lifted = self._read(request)
        if isinstance(lifted, Fault):
            text = describe_error(lifted.kind, lifted.message, lifted.line, request.code)
            return Observation("error", text=lifted.text + text, lane="pillow", level="lifted")
        if isinstance(lifted, ToolProgram):
            if self._fresh == "episode" and lifted.binds:
                lifted = Unliftable("a variable that a later call may use")
            elif (observation := run_lifted(lifted, request, self._limits)) is not None:
                return observation
            else:
                lifted = Unliftable("an argument of a call", lifted.operations[-1].line)
        if self._lane in ("auto", "kornia") and self._start():
            _check_images(request)
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
                    from sandbox.confined_lane import ConfinedLane

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


def run_lifted(program: ToolProgram, request: ToolRequest, limits: Limits) -> Observation | None:
    """Run a program in the Pillow lane and say what came of it; None where it did not fail as it was read to."""
    if not program.has_result:
        return Observation(
            "ok" if program.text else "error", text=program.text or NO_RESULT, lane="pillow", level="lifted"
        )
    final = program.sizes[-1]
    fault = check_size(final, limits) if final is not None else None
    if fault is not None:
        return Observation("error", text=program.text + fault, lane="pillow", level="lifted")
    source = request.image_index if program.source is None else program.source
    outcome = run_program(program, as_rgb(request.images[source]))
    if outcome.failure is not None:
        text = describe_error(kind_of(outcome.failure), str(outcome.failure), outcome.line, request.code)
        return Observation("error", text=program.text + text, lane="pillow", level="lifted")
    if outcome.image is None or final is None:
        return None
    return _observed(program, outcome, "pillow")


def _observed(program: ToolProgram, outcome: Outcome, lane: str) -> Observation:
    """What a policy sees of a program that made an image."""
    is_chosen, image = program.source is None, outcome.image
    return Observation(
        "ok",
        image=image if image is None or image.mode == "RGB" else image.convert("RGB"),
        text=program.text,
        lane=lane,
        level="lifted",
        tools=outcome.tools,
        orientation=outcome.orientation if is_chosen else None,
        frame=outcome.frame if is_chosen else None,
    )


def _is_worth_threads(requests: Sequence[ToolRequest]) -> bool:
    """Whether the images are many pixels, all of them in memory: two threads must not read one file."""
    if len(requests) < 2:
        return False
    images = [image for request in requests for image in request.images if isinstance(image, Image.Image)]
    if any(isinstance(image, ImageFile.ImageFile) for image in images):
        return False
    return sum(image.width * image.height for image in images) >= _MANY_PIXELS


def _check_images(request: ToolRequest) -> None:
    """Read every image once; raises what a broken file raises, before anything is sent."""
    for image in request.images:
        as_rgb(image)


def _refuse(request: ToolRequest, limits: Limits) -> Observation | None:
    """An observation for a request that cannot be run at all."""
    code, index, n_images = request.code, request.image_index, len(request.images)
    text = None
    if not isinstance(code, str):
        text = f"The code must be text, not {type(code).__name__}."
    elif not code.strip():
        text = "The code is empty: assign the new image to `result`, e.g. `result = image.rotate(90, expand=True)`."
    elif len(code) > limits.code_chars:
        text = f"The code is too long: {len(code)} characters; at most {limits.code_chars} are allowed."
    elif "\x00" in code:
        text = "The code holds a null byte, which Python does not read."
    elif not code.isascii() and any("\ud800" <= character <= "\udfff" for character in code):
        text = "The code is not valid Unicode text."
    elif n_images == 0:
        text = "There is no image to work on."
    elif isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_images:
        text = f"image_index is {index!r}; valid are 0 to {n_images - 1}."
    elif not all(isinstance(image, Image.Image) for image in request.images):
        text = "The images must be Pillow images."
    elif not all(map(min, (image.size for image in request.images))):
        text = f"Image {next(i for i, image in enumerate(request.images) if min(image.size) < 1)} has no pixels."
    return Observation("rejected", text=text) if text is not None else None
