"""Runs any code in plain worker processes, for systems without the interfaces of the confined lane (macOS, Windows).

Nothing here confines code: it can read files, reach the network and start processes as the user can. The only limits
are a deadline and, on systems with rlimits, a cap on memory. So the lane requires `min_level="process"` and
`allow_unsafe=True`.
"""

from __future__ import annotations

import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from PIL import Image

from sandbox.confined import wire
from sandbox.confined.levels import Level
from sandbox.confined.plain_worker import serve
from sandbox.confined.pool import Pool
from sandbox.lanes.confined import ConfinedLane
from sandbox.lanes.process import Spawned
from sandbox.types import ConfinementError, Fresh, Limits

_START_S = 60.0
NOT_COVERED = (
    "Code runs in plain processes: it can read and write this user's files, reach the network and start processes; "
    "only its time is limited, and its memory if the system has rlimits."
)


def lacks_confinement() -> bool:
    """Whether this system has none of the kernel interfaces that the confined lane needs."""
    return sys.platform != "linux" or not hasattr(os, "memfd_create")


class ProcessLane(ConfinedLane):
    """Worker processes without any confinement.

    Args:
        workers: Number of calls that run at once.
        limits: Limits of one call.
        min_level: Must be "process".
        fresh: "call": every call gets a new process; "episode": the calls of an episode share a process.

    Raises:
        ConfinementError: `min_level` has any other value.
    """

    def __init__(self, workers: int, limits: Limits, min_level: Level, fresh: Fresh) -> None:
        if min_level != "process":
            raise ConfinementError(
                f"min_level: expected 'process' on this system ({sys.platform}), got {min_level!r}. It has no seccomp, "
                "Landlock or sealed memory files. Run on Linux, or accept unconfined code: min_level='process' and "
                "allow_unsafe=True."
            )
        warnings.warn(NOT_COVERED, RuntimeWarning, stacklevel=3)
        self._set_up(Pool(lambda: PlainWorkers("code", limits), workers, limits), fresh, limits)


@dataclass(eq=False)
class PlainWorker:
    """A plain process and its last reply."""

    process: Spawned
    is_ready: bool = False
    has_hung_up: bool = False
    nonce: int = 0
    pixels: bytes = b""

    @property
    def channel(self) -> Connection:
        """The pipe to it."""
        return self.process.pipe


class PlainWorkers:
    """Makes plain processes, for a `Pool`.

    Args:
        serves: Whether the processes run code or encoded programs.
        limits: Limits of one call.
    """

    title = "process"

    def __init__(self, serves: Literal["code", "programs"], limits: Limits) -> None:
        self._serves, self._limits = serves, limits
        self._capacity = int(limits.result_megapixels * 4e6)
        self._workers: set[PlainWorker] = set()

    def spawn(self) -> PlainWorker:
        """Start a process."""
        worker = PlainWorker(Spawned(serve, self._serves, self._limits.memory_mb, repeats=True))
        self._workers.add(worker)
        return worker

    def await_ready(self, worker: PlainWorker) -> bool:
        """Wait until it has imported the libraries of snippets, which does not count as the code's time."""
        if not worker.is_ready:
            try:
                worker.is_ready = worker.channel.poll(_START_S) and worker.channel.recv_bytes(64) == wire.HELLO
            except (OSError, EOFError):
                return False
        return worker.is_ready

    def send(
        self, worker: PlainWorker, payload: bytes, images: Sequence[Image.Image], chosen: int, text_chars: int
    ) -> None:
        """Send a request together with its pixels."""
        worker.nonce = secrets.randbits(64)
        numbers = (len(images), chosen, len(payload), text_chars, self._capacity, False, False)
        head = wire.REQUEST.pack(wire.REQUEST_MAGIC, worker.nonce, *numbers)
        sizes = [wire.PLACE.pack(*image.size, 0) for image in images]
        pixels = [image.tobytes("raw", "RGBX") for image in images]
        worker.channel.send_bytes(b"".join([head, *sizes, payload, *pixels]))

    def receive(self, worker: PlainWorker) -> wire.WorkerReply | None:
        """The reply and its pixels; None if there is no reply."""
        try:
            reply = wire.read_reply(worker.channel.recv_bytes(wire.MAX_MESSAGE), worker.nonce, self._capacity)
            if reply is not None and reply.outcome in (wire.IMAGE, wire.UNFINISHED) and min(reply.size):
                worker.pixels = worker.channel.recv_bytes(4 * reply.size[0] * reply.size[1])
        except (OSError, EOFError):
            worker.has_hung_up = True
            return None
        return reply

    def result(self, worker: PlainWorker, size: wire.Size) -> memoryview:
        """The pixels that came with the reply."""
        pixels, worker.pixels = worker.pixels, b""
        if len(pixels) != 4 * size[0] * size[1]:
            raise OSError("it sent another number of pixels")
        return memoryview(pixels)

    def is_quiet(self, worker: PlainWorker) -> bool:
        """Whether it has sent nothing since its reply."""
        return not worker.channel.poll(0)

    def leave_inputs(self, worker: PlainWorker) -> None:
        """Do nothing: a plain worker has its own copy of the inputs."""

    def pause(self, worker: PlainWorker) -> None:
        """Do nothing: not every system can stop a process."""

    def exit_status(self, worker: PlainWorker) -> int | None:
        """Always None: not every system reports it."""
        return None

    def kill(self, worker: PlainWorker) -> None:
        """End the process."""
        self._workers.discard(worker)
        worker.process.end()

    def keep_up(self) -> bool:
        """Always True: more workers can always be made."""
        return True

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self.kill(worker)

    def disown(self) -> None:
        """Forget the workers, in a forked child that must leave them to its parent."""
        self._workers.clear()
