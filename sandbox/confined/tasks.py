"""What a pool of workers deals with: tasks, answers, and the workers as it sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import Image

from sandbox.confined import wire
from sandbox.images import view
from sandbox.types import Status


class Worker(Protocol):
    """A worker as the pool sees it: something to wait on, and whether it has closed its end."""

    @property
    def channel(self) -> Any:
        """What becomes readable when it answers."""

    @property
    def has_hung_up(self) -> bool:
        """Whether it has closed its end, as a process does that dies."""


W = TypeVar("W", bound=Worker)


class Workers(Protocol[W]):
    """Makes, feeds and ends workers: the zygote of the confined lane, or plain processes."""

    title: str

    def spawn(self) -> W:
        """Start a worker; it is ready a little later. Raises OSError if none can be made."""

    def await_ready(self, worker: W) -> bool:
        """Wait until it can serve; False if it died instead."""

    def send(self, worker: W, payload: bytes, images: Sequence[Image.Image], chosen: int, text_chars: int) -> None:
        """Send a request with RGB images. Raises OSError if the worker is gone, or memory is short."""

    def receive(self, worker: W) -> wire.WorkerReply | None:
        """The reply, which must be there; None if it is not valid."""

    def result(self, worker: W, size: wire.Size) -> memoryview:
        """The pixels of a result; the worker may write to them later, so look at a copy only."""

    def leave_inputs(self, worker: W) -> None:
        """Give up the memory of its inputs, which its variables still hold."""

    def is_quiet(self, worker: W) -> bool:
        """Whether it has sent nothing since its reply."""

    def pause(self, worker: W) -> None:
        """Stop it until its next request."""

    def exit_status(self, worker: W) -> int | None:
        """The wait status of a worker that died; None if that is not known."""

    def kill(self, worker: W) -> None:
        """End it and give back what belongs to it."""

    def keep_up(self) -> bool:
        """Whether more workers can be made."""

    def close(self) -> None:
        """End all workers."""

    def disown(self) -> None:
        """Let go of all workers, in a forked child."""


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Attributes:
        payload: Code, or an encoded program.
        images: RGB images that it is shown.
        chosen: Index of the image that it works on.
        keep: Name of the worker that runs it and lives on; "" for one that ends with it.
        wall_s: Seconds that it may take; None for those of the limits.
    """

    payload: bytes
    images: Sequence[Image.Image]
    chosen: int = 0
    keep: str = ""
    wall_s: float | None = None


@dataclass(frozen=True)
class TaskAnswer:
    """What came of a task.

    Attributes:
        status: "ok" if the worker answered; else why it did not.
        level: Its confinement.
        text: What it said, or what happened to it.
        reply: Its checked reply.
        pixels: Pixels of its result, or of the image before the call that it left; this process's own copy.
        wall_s: Seconds from the start of the task.
        ready_s: Seconds before it, in which its worker was made ready.
    """

    status: Status
    level: str
    text: str = ""
    reply: wire.WorkerReply | None = None
    pixels: memoryview | None = None
    wall_s: float = 0.0
    ready_s: float = 0.0

    @property
    def image(self) -> Image.Image | None:
        """The result, or the image before the call that is left."""
        return None if self.pixels is None or self.reply is None else view(self.pixels, self.reply.size)
