"""The worker of plain processes: like `worker`, but with a pipe in place of shared memory, for any system."""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from sandbox.confined import wire
from sandbox.images import view
from sandbox.memory import peak_memory_bytes


def serve(serves: Literal["code", "programs"], memory_mb: int, pipe: Connection) -> None:
    """Answer requests until the pipe closes; the code gets no standard stream and no environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends this process
    with Path(os.devnull).open("r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    from sandbox.confined import programs, worker

    worker.warm(logs_calls=serves == "code")
    _limit(memory_mb)
    os.environ.clear()
    names: dict[str, Any] = {}
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(wire.HELLO)
        while True:
            _answer(pipe, names, worker.run if serves == "code" else programs.run)


def _answer(pipe: Connection, names: dict[str, Any], run: Any) -> None:
    from PIL import Image

    from sandbox.confined import postponed, worker

    message = pipe.recv_bytes()
    _, nonce, n_images, chosen, n_payload, text_chars, capacity, _, _ = wire.REQUEST.unpack_from(message)
    sizes = [wire.PLACE.unpack_from(message, wire.REQUEST.size + wire.PLACE.size * i)[:2] for i in range(n_images)]
    start = wire.REQUEST.size + wire.PLACE.size * n_images
    payload, start = message[start : start + n_payload], start + n_payload
    images = []
    for size in sizes:
        images.append(view(message[start : start + 4 * size[0] * size[1]], size))
        start += 4 * size[0] * size[1]
    made = run(worker.Request(nonce, payload, images, chosen, text_chars, capacity), names)
    worker.forget_call(names)
    postponed.end()
    pipe.send_bytes(wire.pack_reply(nonce, made))
    if made.image is not None:
        pipe.send_bytes(Image.Image.tobytes(made.image, "raw", "RGBX"))


def _limit(memory_mb: int) -> None:
    """Cap the memory beyond its present use, if the system can; the images of a call count toward the cap."""
    try:
        import resource
    except ImportError:
        return
    used = peak_memory_bytes()
    with contextlib.suppress(OSError, ValueError):
        most = used + (memory_mb + 700) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
