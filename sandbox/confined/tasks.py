"""The types of a pool of workers: tasks, answers, and the interface of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import Image

from sandbox.confined import wire
from sandbox.images import view
from sandbox.types import Status


class Worker(Protocol):
    """A worker as the pool sees it: a channel to wait on, and whether the worker has closed its end."""

    @property
    def channel(self) -> Any:
        """An object that becomes readable when the worker answers."""

    @property
    def has_hung_up(self) -> bool:
        """Whether it has closed its end, as a dying process does."""


W = TypeVar("W", bound=Worker)


class Workers(Protocol[W]):
    """Makes, feeds and ends workers: the zygote of the confined lane, or plain processes."""

    title: str

    def spawn(self) -> W:
        """Start a worker; it is ready a little later. Raises OSError if none can be made."""

    def await_ready(self, worker: W) -> bool:
        """Wait until the worker can serve; False if it died instead."""

    def send(self, worker: W, payload: bytes, images: Sequence[Image.Image], chosen: int, text_chars: int) -> None:
        """Send a request with RGB images. Raises OSError if the worker is gone, or memory is short."""

    def receive(self, worker: W) -> wire.WorkerReply | None:
        """The worker's waiting reply; None if it is not valid."""

    def result(self, worker: W, size: wire.Size) -> memoryview:
        """The pixels of a result; the worker may write to them later, so read only a copy."""

    def leave_inputs(self, worker: W) -> None:
        """Give up the memory of its inputs, because its variables still hold it."""

    def is_quiet(self, worker: W) -> bool:
        """Whether the worker has sent nothing since its reply."""

    def pause(self, worker: W) -> None:
        """Stop the worker until its next request."""

    def exit_status(self, worker: W) -> int | None:
        """The wait status of a dead worker; None if it is unknown."""

    def kill(self, worker: W) -> None:
        """End a worker and release what belongs to it."""

    def keep_up(self) -> bool:
        """Whether more workers can be made."""

    def close(self) -> None:
        """End all workers."""

    def disown(self) -> None:
        """Release all workers, in a forked child."""


@dataclass(frozen=True)
class Task:
    """A task for a worker.

    Attributes:
        payload: Code, or an encoded program.
        images: RGB images that the worker is shown.
        chosen: Index of the image to work on.
        keep: Name of the worker to use, which is kept; "" for a worker that ends with the task.
        wall_s: Time limit in seconds; None for that of the limits.
    """

    payload: bytes
    images: Sequence[Image.Image]
    chosen: int = 0
    keep: str = ""
    wall_s: float | None = None


@dataclass(frozen=True)
class TaskAnswer:
    """The answer to a task.

    Attributes:
        status: "ok" if the worker answered, else why it did not.
        level: Confinement of the worker.
        text: Text of the worker, or what happened to it.
        reply: Its checked reply.
        pixels: Pixels of the result, or of the image before the remaining call; a copy that belongs to this process.
        wall_s: Seconds from the start of the task.
        ready_s: Seconds before the start, in which the worker was made ready.
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
        """The result, or the image before the remaining call."""
        return None if self.pixels is None or self.reply is None else view(self.pixels, self.reply.size)
