"""The zygote: imports what snippets use once, confines itself, and forks a worker for every request of the trainer.

`sandbox.confined.client` starts it with one packet socket. It runs no code of a snippet, and ends when the trainer
hangs up; its workers end with it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from sandbox.confined import landlock, layers, seccomp, wire
from sandbox.confined.syscalls import this_architecture

_FILES = 160
_MODULES = """
abc array base64 bisect cmath collections colorsys contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq io itertools json math numbers operator random re statistics string struct textwrap time traceback types
typing warnings zlib
PIL.ImageMath PIL.ImageMorph PIL.ImagePalette PIL.ImagePath PIL.ImageSequence PIL.ImageTransform
numpy.fft numpy.linalg numpy.lib.stride_tricks numpy.ma numpy.polynomial numpy.random numpy.typing
"""


class Settings:
    """The trainer's settings, as JSON on the command line.

    Attributes:
        serves: Whether workers run "code" or "programs".
        memory_mb: Mebibytes that code may allocate.
        mapped_mb: Mebibytes of images that a worker may map in addition.
        cpu_s: Seconds of processor time of a worker.
        without: Layers to leave off, to test what each layer prevents; "descriptors" is the closing of inherited ones,
            "null" a separate null device for the worker.
    """

    def __init__(self, text: str) -> None:
        values = json.loads(text)
        self.serves = str(values["serves"])
        self.memory_mb = int(values["memory_mb"])
        self.mapped_mb = int(values["mapped_mb"])
        self.cpu_s = int(values["cpu_s"])
        self.without = frozenset(values["without"])


def main(descriptor: int, text: str) -> None:
    """Confine this process, report which layers hold, and serve."""
    settings = Settings(text)
    control = socket.socket(fileno=descriptor)
    held: dict[str, str] = {}
    layers.prefer_as_victim()
    _import_all(settings.serves)
    has_spaces = "namespaces" not in settings.without and layers.attempt(held, "namespaces", layers.unshare)
    if has_spaces:
        _become_first_process(control)
    mapped, private = layers.memory_in_use()
    if has_spaces:
        layers.attempt(held, "namespaces", layers.empty_root)
    os.chdir("/")
    sys.path.clear()
    os.environ.clear()
    layers.attempt(held, "no_new_privs", layers.no_new_privileges)
    layers.renounce()
    layers.yield_to_others()
    if "landlock" not in settings.without:
        layers.attempt(held, "landlock", landlock.restrict)
    zygote = _ForkServer(control, settings, mapped, private)
    held |= zygote.probe()
    control.send(json.dumps(held).encode())
    zygote.serve()


def _import_all(serves: str) -> None:
    """Import modules while files can still be read; `client` keeps the libraries from starting threads."""
    for name in (_MODULES if serves == "code" else "sandbox.confined.programs").split():
        __import__(name)
    from sandbox.confined import worker

    worker.warm(logs_calls=serves == "code")


def _become_first_process(control: socket.socket) -> None:
    """Fork the first process of the new process namespace; when it ends, the kernel ends all others in it."""
    child = os.fork()
    if child:
        control.close()
        os.waitpid(child, 0)
        os._exit(0)
    layers.die_with_parent()


class _ForkServer:
    """Forks workers and reports their starts and ends to the trainer."""

    def __init__(self, control: socket.socket, settings: Settings, mapped: int, private: int) -> None:
        self._control = control
        self._settings = settings
        self._address_space = mapped + (settings.memory_mb + settings.mapped_mb) * 2**20
        self._data = private + settings.memory_mb * 2**20 if "data" not in settings.without else self._address_space
        self._architecture = this_architecture()
        self._filter = seccomp.assemble(self._architecture) if self._architecture else b""
        self._children: dict[int, tuple[int, int]] = {}
        self._tried: dict[str, str] = {}

    def confine(self) -> dict[str, str]:
        """Put the worker's layers on this process; returns layer -> "" or the reason why it does not hold."""
        held: dict[str, str] = {}
        settings, architecture = self._settings, self._architecture
        if "rlimits" not in settings.without:
            limits = (self._address_space, self._data, settings.cpu_s, _FILES)
            layers.attempt(held, "rlimits", lambda: layers.limit_resources(*limits))
        if "uid" not in settings.without:
            layers.attempt(held, "uid", layers.drop_user)
        layers.die_with_parent()
        layers.yield_no_more()
        if architecture is None:
            held["seccomp"] = "no table of system calls for this processor"
        elif "seccomp" not in settings.without:
            layers.attempt(held, "seccomp", lambda: seccomp.load(self._filter, architecture))
        return held

    def probe(self) -> dict[str, str]:
        """Find which layers hold in a worker: a forked test process tries what it must not be able to do."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            held = self.confine()
            if not held.get("seccomp", "-"):
                held["seccomp"] = _try_forbidden()
            os.write(writer, json.dumps(held).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        self._tried = json.loads(text) if text else {"seccomp": "the probe died"}
        return self._tried

    def serve(self) -> None:
        """Fork on request until the trainer hangs up."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != self._control.fileno():
                    self._bury(poll, descriptor)
                elif not self._fork(poll):
                    os._exit(0)

    def _fork(self, poll: select.poll) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 64, 2)
        if not message:
            return False
        _, worker_id = wire.SPAWN.unpack(message)
        try:
            self._bear(poll, worker_id, descriptors)
        except OSError as error:  # no process or descriptor is left
            reason = error.errno or errno.EMFILE
            self._control.send(wire.NOTICE.pack(wire.NOTICE_MAGIC, wire.REFUSED, worker_id, reason))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _bear(self, poll: select.poll, worker_id: int, descriptors: list[int]) -> None:
        if len(descriptors) < 2:
            raise OSError(errno.EMFILE, "descriptors were lost")
        child = os.fork()
        if child == 0:
            self._live(*descriptors)
        try:
            watch = os.pidfd_open(child)
        except OSError:  # the child would wait for a request that nobody sends
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        self._children[watch] = (child, worker_id)
        poll.register(watch, select.POLLIN)
        notice = wire.NOTICE.pack(wire.NOTICE_MAGIC, wire.FORKED, worker_id, 0)
        socket.send_fds(self._control, [notice], [watch])

    def _bury(self, poll: select.poll, watch: int) -> None:
        child, worker_id = self._children.pop(watch)
        poll.unregister(watch)
        os.close(watch)
        _, status = os.waitpid(child, 0)
        self._control.send(wire.NOTICE.pack(wire.NOTICE_MAGIC, wire.EXITED, worker_id, status))

    def _live(self, descriptor: int, null: int) -> NoReturn:
        """Set up the descriptors of a worker, serve, and exit."""
        try:
            if "null" not in self._settings.without:
                for standard in (0, 1, 2):
                    os.dup2(null, standard, inheritable=False)
            if descriptor != 3:
                os.dup2(descriptor, 3, inheritable=False)
            if "descriptors" not in self._settings.without:
                os.closerange(4, 1 << 16)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=3)
            if self._settings.serves == "code":
                self._serve_code(channel)
            else:
                self._serve_programs(channel)
        finally:
            os._exit(0)

    def _serve_code(self, channel: socket.socket) -> None:
        from sandbox.confined import worker

        rehearsal = worker.Rehearsal()
        if self.confine() == self._tried:
            rehearsal.play()
            worker.serve(channel, worker.run)

    def _serve_programs(self, channel: socket.socket) -> None:
        from sandbox.confined import programs, worker

        if self.confine() == self._tried:
            worker.serve(channel, programs.run)


def _try_forbidden() -> str:
    """Test whether the filter is on: returns "", or what a confined process could still do."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = {
        "make a socket": libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0),
        "open a file": libc.open(b"/", os.O_RDONLY),
        "send a signal": libc.kill(os.getpid(), 0),
    }
    return "; ".join(f"a worker could {name}" for name, status in done.items() if status >= 0)


signal.signal(signal.SIGINT, signal.SIG_IGN)
