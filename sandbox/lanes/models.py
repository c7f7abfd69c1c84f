"""Calls tools that are models, each in its own process, on pixels from a program or a confined worker.

The models are trusted; the pixels and the arguments are not. Only checked literals and RGB bytes go in. The answer is
read as bounded text and bytes, never unpickled. A model that raises, hangs, dies or returns something else gives an
observation. A process that was ended is started again by the next call; one that could not be started is not tried
again.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from sandbox.effects.pixels import same_pixels
from sandbox.images import as_rgb, check_size
from sandbox.lanes.process import Spawned
from sandbox.messages import kind_of
from sandbox.types import Limits, Model, ModelCall, ModelResult, Observation, Status, ToolRequest

#: Bytes of a reply's header, and characters of the text in it; each character takes at most six bytes there.
_HEADER_BYTES = 1 << 20
_TEXT_CHARS = 1 << 16

#: How a call ended, and the model's findings or the reason for the failure.
ModelAnswer = tuple[Status, ModelResult]


@dataclass(frozen=True)
class ModelStep:
    """A model to call on the image of an observation."""

    request: ToolRequest
    model: ModelCall
    before: Observation


class ModelLane:
    """Holds the processes of models; safe to share between threads.

    Args:
        limits: Limits of a result.
    """

    name = "model"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}

    def run(self, calls: Sequence[ModelStep]) -> list[Observation]:
        """Return the observation of each step, in order. Equal calls on equal images run once."""
        answers: dict[object, tuple[ModelAnswer, float]] = {}
        return [self._observe(step, answers) for step in calls]

    def _observe(self, step: ModelStep, answers: dict[object, tuple[ModelAnswer, float]]) -> Observation:
        before, call, image = step.before, step.model, step.before.image
        if image is None:
            return before
        try:
            key = _key(call, image)
        except Exception as error:  # noqa: BLE001 - arguments that JSON cannot represent
            text = f"{before.text}{call.name} failed: {_reason(error)}"
            return replace(before, status="error", image=None, text=text, tools=())
        if key not in answers:
            start = time.perf_counter()
            answers[key] = self._worker(call).ask(image, call, self._limits), time.perf_counter() - start
        (status, found), seconds = answers[key]
        wall_s = before.wall_s + seconds
        text = before.text + found.text
        if status != "ok":
            return replace(before, status=status, image=None, text=text, tools=(), wall_s=wall_s)
        if not found.text and found.image is None:
            text = f"{before.text}{call.name} found nothing."
        tools = (*before.tools, call.name) if found.text or found.image is not None else before.tools
        seen = replace(before, text=text, tools=tools, wall_s=wall_s)
        if found.image is not None:  # the place of its pixels in the input image is unknown
            return replace(seen, image=found.image, orientation=None, frame=None)
        is_old = same_pixels(image, as_rgb(step.request.images[step.request.image_index]))
        return replace(seen, image=None) if is_old else seen

    def _worker(self, call: ModelCall) -> _Worker:
        with self._lock:
            worker = self._workers.get(id(call.tool))
            if worker is None:
                worker = self._workers[id(call.tool)] = _Worker(call.tool)
            return worker

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        with self._lock:
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.close()

    def disown(self) -> None:
        """Forget the parent's processes, in a forked child."""
        self._lock = threading.Lock()
        self._workers = {}


def _key(call: ModelCall, image: Image.Image) -> object:
    """A key that is equal for calls that must have the same answer."""
    pixels = as_rgb(image)
    digest = hashlib.sha256(pixels.tobytes()).digest()
    return id(call.tool), call.name, json.dumps(dict(call.arguments), sort_keys=True), call.wall_s, pixels.size, digest


class _Worker:
    """One model in its process, which takes one call at a time."""

    def __init__(self, tool: Model) -> None:
        self._tool = tool  # a reference, so that no other object can get its id
        self._lock = threading.Lock()
        self._process: Spawned | None = None
        self._cannot_start = ""

    def ask(self, image: Image.Image, call: ModelCall, limits: Limits) -> ModelAnswer:
        """Call the model; a failure of the model is an answer, too."""
        with self._lock:
            try:
                process = self._running(call)
                if process is None:
                    return "crash", ModelResult(self._cannot_start)
                pixels = as_rgb(image)
                process.pipe.send((pixels.size, pixels.tobytes(), dict(call.arguments)))
                if not process.pipe.poll(call.wall_s):
                    self._end()
                    return "timeout", ModelResult(f"{call.name} took longer than {call.wall_s:g} s and was ended.")
                return self._read(process.pipe, call.name, limits)
            except BaseException as error:
                self._end()  # also if the user interrupts: the next call must not get this answer
                if not isinstance(error, Exception):
                    raise
                return "crash", ModelResult(f"{call.name} failed: {_reason(error)}")

    def _read(self, pipe: Connection, name: str, limits: Limits) -> ModelAnswer:
        header = json.loads(pipe.recv_bytes(_HEADER_BYTES))
        text, size = str(header["text"]), header["size"]
        if header["status"] != "ok":
            return "error", ModelResult(f"{name} failed: {text}")
        if size is None:
            return "ok", ModelResult(text)
        width, height = (int(side) for side in size)
        if (fault := check_size((width, height), limits)) is not None:
            self._end()  # it waits to send pixels that nobody reads
            return "error", ModelResult(f"{name} failed: {fault}")
        pixels = pipe.recv_bytes(3 * width * height)
        return "ok", ModelResult(text, Image.frombytes("RGB", (width, height), pixels))

    def _running(self, call: ModelCall) -> Spawned | None:
        """The process, started if necessary; None if it cannot be started.

        The reason is remembered, so that not every call of a rollout waits for another attempt.
        """
        if self._cannot_start or (self._process is not None and self._process.is_alive()):
            return self._process
        self._end()
        try:
            self._process = Spawned(_serve, self._tool)
            problem = f"not within {call.start_s:g} s"
            if self._process.pipe.poll(call.start_s):
                problem = self._process.pipe.recv_bytes(_HEADER_BYTES).decode(errors="replace")
        except Exception as error:  # noqa: BLE001 - a tool that cannot be pickled, a machine without memory
            problem = _reason(error)
        if problem:
            self._end()
            self._cannot_start = f"{call.name} could not be started: {problem}"
            warnings.warn(f"{self._cannot_start}. Its calls fail from now on.", RuntimeWarning, stacklevel=2)
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None

    def close(self) -> None:
        with self._lock:
            self._end()


def _reason(error: Exception) -> str:
    return "its process ended" if isinstance(error, OSError | EOFError) else f"{kind_of(error)}: {error}"


def _serve(tool: Model, pipe: Connection) -> None:
    """Run the process of a model: report why it cannot serve, or nothing; then answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends this process
    try:
        tool.load()
    except Exception as error:  # noqa: BLE001 - the author of a model must see every error of it
        pipe.send_bytes(f"{kind_of(error)}: {error}"[:_TEXT_CHARS].encode(errors="replace"))
        return
    with suppress(EOFError, OSError):
        pipe.send_bytes(b"")
        while True:
            size, pixels, arguments = pipe.recv()
            header, image = _call(tool, Image.frombytes("RGB", size, pixels), arguments)
            pipe.send_bytes(json.dumps(header).encode())
            if image is not None:
                pipe.send_bytes(image.tobytes())


def _call(tool: Model, image: Image.Image, arguments: dict[str, Any]) -> tuple[dict[str, Any], Image.Image | None]:
    try:
        found = tool(image, **arguments)
        if not isinstance(found, ModelResult) or not isinstance(found.text, str):
            raise TypeError(f"expected a ModelResult with text but got {type(found).__name__}")
        result = None if found.image is None else found.image.convert("RGB")
    except Exception as error:  # noqa: BLE001 - the policy must see every error of a model
        return {"status": "error", "text": f"{kind_of(error)}: {error}"[:_TEXT_CHARS], "size": None}, None
    size = None if result is None else result.size
    return {"status": "ok", "text": found.text[:_TEXT_CHARS], "size": size}, result
