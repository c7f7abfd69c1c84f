"""Runs any code in plain worker processes, for systems without the interfaces of the confined lane (macOS, Windows).

Nothing here confines code: it can read files, reach the network and start processes as the user can. What holds is a
deadline, and on systems with rlimits a cap on memory. So it takes `min_level="process"` and `allow_unsafe=True`.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sandbox.confined import wire
from sandbox.confined.levels import Level
from sandbox.confined.plain_worker import HEAD, command, environment
from sandbox.effects.search import find_effects
from sandbox.images import as_rgb, check_size
from sandbox.messages import hide_paths
from sandbox.types import ConfinementError, Fresh, Limits, Observation, ToolRequest

_MAX_EPISODES = 16
_START_S = 60.0
NOT_COVERED = (
    "Code runs in plain processes: it can read and write this user's files, reach the network and start processes; "
    "only its time, and where the system has rlimits its memory, is limited."
)


def lacks_confinement() -> bool:
    """Whether this system has none of the kernel interfaces that the confined lane needs."""
    return sys.platform != "linux" or not hasattr(os, "memfd_create")


class ProcessLane:
    """Workers that nothing confines, with the interface of `ConfinedLane`.

    Args:
        workers: How many calls run at once.
        limits: What one call may use.
        min_level: Must be "process".
        fresh: "call": every call gets a new process; "episode": the calls of an episode share one.

    Raises:
        ConfinementError: For any other `min_level`.
    """

    name = "confined"
    level: Level = "process"

    def __init__(self, workers: int, limits: Limits, min_level: Level, fresh: Fresh) -> None:
        if min_level != "process":
            raise ConfinementError(
                f"Expected confinement of level {min_level!r} or better but this system ({sys.platform}) has no "
                "seccomp, Landlock or sealed memory files: run on Linux, or accept unconfined code by "
                "min_level='process' and allow_unsafe=True."
            )
        warnings.warn(NOT_COVERED, RuntimeWarning, stacklevel=3)
        self._n_workers, self._limits, self._fresh = workers, limits, fresh
        self._episodes: OrderedDict[str, subprocess.Popen[bytes]] = OrderedDict()

    def has_state(self, episode: str) -> bool:
        """Whether variables of the episode are alive in a worker."""
        return episode in self._episodes

    def close(self) -> None:
        """End every worker."""
        while self._episodes:
            _end(self._episodes.popitem()[1])

    def disown(self) -> None:
        """Forget the workers, in a forked child that must leave them to its parent."""
        self._episodes.clear()

    def run(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run every request; one observation for each, in order. The calls of one episode follow each other."""
        chains: dict[object, list[int]] = {}
        for index, request in enumerate(requests):
            chains.setdefault(request.episode if self._is_kept(request) else index, []).append(index)
        observations: dict[int, Observation] = {}

        def follow(chain: list[int]) -> None:
            for index in chain:
                observations[index] = self._call(requests[index])

        with ThreadPoolExecutor(self._n_workers) as pool:
            for done in [pool.submit(follow, chain) for chain in chains.values()]:
                done.result()
        while len(self._episodes) > _MAX_EPISODES:
            _end(self._episodes.popitem(last=False)[1])
        return [observations[index] for index in range(len(requests))]

    def _is_kept(self, request: ToolRequest) -> bool:
        return self._fresh == "episode" and request.episode != ""

    def _call(self, request: ToolRequest) -> Observation:
        started = time.perf_counter()
        process = self._episodes.pop(request.episode, None) if self._is_kept(request) else None
        try:
            process = process or _start(self._limits)
            observation = self._ask(process, request)
        except OSError as error:
            observation = Observation("crash", text=f"The process that ran the code ended: {error.strerror}.")
        if process is not None and self._is_kept(request) and observation.status == "ok":
            self._episodes[request.episode] = process
        elif process is not None:
            _end(process)
        return Observation(
            **{**vars(observation), "lane": "confined", "level": self.level, "wall_s": time.perf_counter() - started}
        )

    def _ask(self, process: subprocess.Popen[bytes], request: ToolRequest) -> Observation:
        """Send a request, and read the one reply to it before the deadline."""
        images, nonce = [as_rgb(image) for image in request.images], secrets.randbits(64)
        capacity, code = int(self._limits.result_megapixels * 4e6), request.code.encode("utf-8", "replace")
        sizes = b"".join(wire.PLACE.pack(*image.size, 0) for image in images)
        numbers = (len(images), request.image_index, len(code), self._limits.text_chars, capacity, False, False)
        parts = [wire.REQUEST.pack(wire.REQUEST_MAGIC, nonce, *numbers), sizes, code]
        parts += [image.tobytes("raw", "RGBX") for image in images]
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._limits.wall_s, stop)
        timer.start()
        try:
            reply, pixels = _exchange(process, parts, nonce, capacity)
        except (OSError, EOFError):
            reply, pixels = None, b""
        finally:
            timer.cancel()
        if late.is_set():
            return Observation("timeout", text=f"The code ran longer than {self._limits.wall_s:g} s and was stopped.")
        if reply is None:
            return Observation("crash", text="The process that ran the code ended without a result.")
        return self._observe(request, reply, pixels)

    def _observe(self, request: ToolRequest, reply: wire.Reply, pixels: bytes) -> Observation:
        text = hide_paths(reply.text)
        if reply.outcome != wire.IMAGE:
            return Observation("ok" if reply.outcome == wire.TEXT_ONLY else "error", text=text)
        if (fault := check_size(reply.size, self._limits)) is not None:
            return Observation("error", text=text + fault)
        source = np.asarray(as_rgb(request.images[request.image_index]))
        found = find_effects(source, wire.pixels(pixels, reply.size))
        return Observation(
            "ok",
            image=wire.view(pixels, reply.size).copy(),
            text=text,
            tools=found.tools,
            orientation=found.orientation,
            frame=found.frame,
        )


def _exchange(
    process: subprocess.Popen[bytes], parts: list[bytes], nonce: int, capacity: int
) -> tuple[wire.Reply | None, bytes]:
    """Write a request and read its reply with the pixels after it."""
    if process.stdin is None or process.stdout is None:
        raise EOFError
    for part in (HEAD.pack(sum(map(len, parts))), *parts):
        process.stdin.write(part)
    process.stdin.flush()
    (length,) = HEAD.unpack(_read(process, HEAD.size))
    if length > wire.MAX_MESSAGE:
        return None, b""
    reply = wire.read_reply(_read(process, length), nonce, capacity)
    has_image = reply is not None and reply.outcome == wire.IMAGE
    return reply, _read(process, 4 * reply.size[0] * reply.size[1]) if reply is not None and has_image else b""


def _read(process: subprocess.Popen[bytes], length: int) -> bytes:
    data = process.stdout.read(length) if process.stdout is not None else b""
    if len(data) != length:
        raise EOFError
    return data


def _start(limits: Limits) -> subprocess.Popen[bytes]:
    """Start a worker and wait until it has imported what snippets use, which is not the code's time.

    Raises:
        OSError: Where it does not start.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own text
        command(limits.memory_mb),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    timer = threading.Timer(_START_S, process.kill)
    timer.start()
    try:
        _read(process, len(wire.HELLO))
    except (OSError, EOFError):
        _end(process)
        raise OSError(0, "it did not start") from None
    finally:
        timer.cancel()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
