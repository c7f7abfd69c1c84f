"""The trainer's end of the zygote: starts it, asks for workers, times and ends them. It trusts no worker."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from sandbox.confined import wire
from sandbox.confined.cgroup import Cgroup
from sandbox.confined.launch import start
from sandbox.confined.layers import attempt
from sandbox.confined.levels import LEVELS, Level, level_of
from sandbox.confined.slots import Slot, Slots
from sandbox.images import copy_into
from sandbox.types import ConfinementError

_START_S = 60.0
_NOTICE_S = 10.0
#: Bytes of earlier inputs that a worker may hold. Through their descriptors, they count toward none of its own limits.
_MAX_LEFT = 1 << 30


@dataclass
class ConfinedWorker:
    """A worker process, as the trainer sees it.

    Attributes:
        id: Number by which the zygote knows it.
        channel: Packet socket to it.
        inputs: Memory file for the images that it is shown; None before the first request, and if it
            keeps the last file.
        output: Memory file for results, of fixed size.
        pidfd: Handle on the process; None until the zygote has sent it.
        is_ready: Whether it has reported that it is confined.
        has_hung_up: Whether it has closed its end, as a dying process does.
        nonce: Number of the request that it is answering.
        left: Bytes of input files that were left to it, and that it may hold until it dies.
        is_paused: Whether it is stopped until its next request.
        failure: The `errno` for which the zygote could not make it.
    """

    id: int
    channel: socket.socket
    inputs: Slot | None = None
    output: Slot | None = None
    pidfd: int | None = None
    is_ready: bool = False
    has_hung_up: bool = False
    nonce: int = 0
    left: int = 0
    is_paused: bool = False
    failure: int = 0


class Zygote:
    """A running zygote and its workers.

    Args:
        serves: Whether its workers run "code" of a policy, or "programs" of our own calls.
        workers: Number of calls that run at once.
        memory_mb: Mebibytes that a worker may allocate.
        capacity: Bytes of a result.
        cpu_s: Seconds of processor time of a worker.
        without: Layers to leave off ("namespaces", "landlock", "seccomp", "uid", "rlimits", "data", "descriptors",
            "null", "cgroup"), to test what each layer prevents.

    Attributes:
        layers: Layer -> "" if it holds, else the reason why not.
        level: The level that they give; None if they give none.
        missing: The layers that the next level needs, and why they are missing.
        title: The level as observations report it, with "+cgroup" if all workers together are limited too.

    Raises:
        ConfinementError: The zygote does not start.
    """

    def __init__(
        self,
        serves: Literal["code", "programs"],
        workers: int,
        memory_mb: int,
        capacity: int,
        cpu_s: int,
        without: Sequence[str] = (),
    ) -> None:
        self._capacity = capacity
        self._next_id = 1
        self._workers: dict[int, ConfinedWorker] = {}
        self._exits: dict[int, int] = {}
        self._dying: list[ConfinedWorker] = []
        self._inputs, self._outputs = Slots(is_input=True), Slots(is_input=False)
        mapped_mb = capacity // 2**20 + 700
        settings = {
            "serves": serves,
            "memory_mb": memory_mb,
            "mapped_mb": mapped_mb,
            "cpu_s": cpu_s,
            "without": list(without),
        }
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = start(theirs.fileno(), json.dumps(settings))
        self._cgroup: Cgroup | None = None
        total: dict[str, str] = {}
        if "cgroup" not in without:
            attempt(total, "cgroup", lambda: self._enter_cgroup(workers, (memory_mb + mapped_mb) * 2**20))
        self.layers = self._report() | total
        self.level, self.missing = level_of(self.layers)
        self.title = f"{self.level}+cgroup" if self._cgroup is not None else str(self.level)

    def _enter_cgroup(self, workers: int, memory: int) -> None:
        """Limit all workers together: those that run a call, and as many again that are ready or kept."""
        self._cgroup = Cgroup(self._process.pid, 2 * workers * memory, tasks=4 * workers + 100, cores=workers)

    def _report(self) -> dict[str, str]:
        self._control.settimeout(_START_S)
        try:
            report = self._control.recv(wire.MAX_MESSAGE)
        except OSError as error:
            report = b""
            reason = str(error)
        else:
            reason = "it ended at once"
        self._control.settimeout(None)
        if not report:
            self.close()
            raise ConfinementError(f"The sandbox's zygote did not start: {reason}.")
        return {str(name): str(state) for name, state in json.loads(report).items()}

    def require(self, min_level: Level) -> None:
        """Check the level.

        Raises:
            ConfinementError: The level is below `min_level`; the message says what is missing.
        """
        reached = -1 if self.level is None else LEVELS.index(self.level)
        if reached < LEVELS.index(min_level):
            missing = "; ".join(self.missing)
            raise ConfinementError(
                f"Expected confinement of level {min_level!r} or better but this machine gives {self.level!r}; "
                f"missing: {missing}."
            )

    def spawn(self) -> ConfinedWorker:
        """Ask for a worker, which is confined and ready a little later.

        Raises:
            OSError: The zygote is gone, or no descriptor is left.
        """
        with Path(os.devnull).open("r+b", buffering=0) as null:  # its own: a shared one carries flags between workers
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            worker = ConfinedWorker(self._next_id, ours)
            self._workers[worker.id] = worker
            self._next_id += 1
            with theirs:
                descriptors = [theirs.fileno(), null.fileno()]
                socket.send_fds(self._control, [wire.SPAWN.pack(wire.SPAWN_MAGIC, worker.id)], descriptors)
        return worker

    def await_ready(self, worker: ConfinedWorker) -> bool:
        """Wait until the worker is confined and can be ended from here; False if it died instead.

        Raises:
            OSError: This process or the zygote has no descriptor left for the worker.
        """
        if not worker.is_ready:
            worker.channel.settimeout(_NOTICE_S)
            try:
                worker.is_ready = worker.channel.recv(64) == wire.HELLO
            except OSError:
                worker.is_ready = False
            worker.channel.settimeout(None)
            self._await_handle(worker)
        if worker.failure:
            raise OSError(worker.failure, os.strerror(worker.failure))
        return worker.is_ready

    def _await_handle(self, worker: ConfinedWorker) -> None:
        """Wait for the handle on a worker's process, or for the notice of its end."""
        deadline = time.monotonic() + _NOTICE_S
        while worker.pidfd is None and not worker.failure and worker.id not in self._exits:
            if time.monotonic() > deadline or not self._take_notice(0.1):
                break

    def send(
        self, worker: ConfinedWorker, payload: bytes, images: Sequence[Image.Image], chosen: int, text_chars: int
    ) -> None:
        """Send a request with RGB images.

        Raises:
            OSError: The worker is gone, or memory is short.
        """
        self._bury()
        self.resume(worker)
        places, length = wire.layout([image.size for image in images])
        new: list[Slot] = []
        if worker.inputs is None or worker.inputs.length < length:
            self.leave_inputs(worker)
            if worker.left > _MAX_LEFT:
                raise OSError(errno.ENOMEM, "its variables hold too many images")
            worker.inputs = self._inputs.take(length)
            new.append(worker.inputs)
        has_new_inputs = bool(new)
        if has_new_output := worker.output is None:
            worker.output = self._outputs.take(self._capacity)
            new.append(worker.output)
        worker.inputs.reserve(length)
        for place, image in zip(places, images, strict=True):
            end = place + 4 * image.width * image.height
            copy_into(worker.inputs.memory[place:end], image)
            rest = -end % wire.PAGE  # it may hold pixels that another worker was shown
            worker.inputs.memory[end : end + rest] = bytes(rest)
        worker.nonce = secrets.randbits(64)
        numbers = (len(images), chosen, len(payload), text_chars, self._capacity, has_new_inputs, has_new_output)
        head = wire.REQUEST.pack(wire.REQUEST_MAGIC, worker.nonce, *numbers)
        sizes = b"".join(wire.PLACE.pack(*image.size, place) for place, image in zip(places, images, strict=True))
        descriptors = [slot.descriptor for slot in new]
        socket.send_fds(worker.channel, [head, sizes, payload], descriptors, socket.MSG_DONTWAIT)

    def receive(self, worker: ConfinedWorker) -> wire.WorkerReply | None:
        """The worker's waiting reply; None if it is not valid. Descriptors sent along are never taken."""
        try:
            message = worker.channel.recv(wire.MAX_MESSAGE, socket.MSG_DONTWAIT)
        except OSError:
            message = b""
        worker.has_hung_up = not message
        return wire.read_reply(message, worker.nonce, self._capacity)

    def result(self, worker: ConfinedWorker, size: wire.Size) -> memoryview:
        """The pixels of a result; a live worker may still write to them, so read only a copy."""
        n_bytes = 4 * size[0] * size[1]
        if worker.output is None:
            raise OSError("the worker has no output")
        worker.output.reserve(n_bytes)
        return worker.output.memory[:n_bytes]

    def leave_inputs(self, worker: ConfinedWorker) -> None:
        """Give up the input file, because the worker's variables still hold images in it."""
        if worker.inputs is not None:
            worker.left += worker.inputs.length
            worker.inputs.close()
            worker.inputs = None

    def pause(self, worker: ConfinedWorker) -> None:
        """Stop a kept worker, so that it computes nothing between its calls."""
        self._signal(worker, signal.SIGSTOP)
        worker.is_paused = True

    def resume(self, worker: ConfinedWorker) -> None:
        """Let a stopped worker continue."""
        if worker.is_paused:
            self._signal(worker, signal.SIGCONT)
            worker.is_paused = False

    def _signal(self, worker: ConfinedWorker, number: signal.Signals) -> None:
        if worker.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, number)

    def is_quiet(self, worker: ConfinedWorker) -> bool:
        """Whether a worker has kept silent since its answer: it may send one message per request."""
        try:
            worker.channel.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def exit_status(self, worker: ConfinedWorker) -> int | None:
        """The wait status of a dead worker; None if the zygote does not report it within a moment."""
        deadline = time.monotonic() + 0.2
        while worker.id not in self._exits and time.monotonic() < deadline and self._take_notice(0.05):
            pass
        return self._exits.get(worker.id)

    def kill(self, worker: ConfinedWorker) -> None:
        """End a worker and release what belongs to it."""
        self._await_handle(worker)
        self._signal(worker, signal.SIGKILL)
        self._workers.pop(worker.id, None)
        self._exits.pop(worker.id, None)
        worker.channel.close()
        self._dying.append(worker)
        self._bury()

    def _bury(self) -> None:
        """Take back the files of workers that are dead by now: no other process can see or change them any more."""
        dying, self._dying = self._dying, []
        for worker in dying:
            if worker.pidfd is None:
                _release(worker)
            elif not _is_over(worker.pidfd):
                self._dying.append(worker)
            else:
                inputs, output, worker.inputs, worker.output = worker.inputs, worker.output, None, None
                if inputs is not None:
                    self._inputs.give(inputs)
                if output is not None:
                    self._outputs.give(output)
                _release(worker)

    def _take_notice(self, timeout_s: float) -> bool:
        """Read the zygote's notices, waiting for at most `timeout_s`; False if the zygote is gone."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        timeout_ms = int(timeout_s * 1000)
        while poll.poll(timeout_ms):
            timeout_ms = 0
            message, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
            if len(message) != wire.NOTICE.size:
                return False
            _, kind, worker_id, status = wire.NOTICE.unpack(message)
            worker = self._workers.get(worker_id)
            if worker is None:
                for descriptor in descriptors:
                    os.close(descriptor)
            elif kind == wire.EXITED:
                self._exits[worker_id] = status
            elif kind == wire.FORKED and descriptors:
                worker.pidfd = descriptors[0]
            else:  # without a handle it could not be ended; it has not seen code yet, and ends when we hang up
                worker.failure = status or errno.EMFILE
        return True

    def keep_up(self) -> bool:
        """Read the zygote's notices without waiting; False if it is gone."""
        try:
            return self._take_notice(0)
        except OSError:
            return False

    def close(self) -> None:
        """End the zygote and with it every worker."""
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                self._signal(worker, signal.SIGKILL)
        self.forget()
        try:
            self._process.wait(_NOTICE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._cgroup is not None:
            self._cgroup.close()

    def forget(self) -> None:
        """Only close this process's handles; a forked child must not end the workers of its parent."""
        self._control.close()
        for worker in (*self._workers.values(), *self._dying):
            _release(worker)
        self._workers.clear()
        self._dying.clear()
        self._inputs.close()
        self._outputs.close()

    def disown(self) -> None:
        """Like `forget`, but in a forked child, which cannot wait for the process."""
        self.forget()
        self._process.returncode = 0


def _release(worker: ConfinedWorker) -> None:
    worker.channel.close()
    for slot in (worker.inputs, worker.output):
        if slot is not None:
            slot.close()
    worker.inputs = worker.output = None
    if worker.pidfd is not None:
        os.close(worker.pidfd)
        worker.pidfd = None


def _is_over(pidfd: int) -> bool:
    """Whether the process has ended and released its memory and descriptors."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
