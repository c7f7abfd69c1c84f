"""A server that the trainer started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from modules.samplers.vllm import guardian

#: Lines of a log that a message quotes.
_QUOTED_LINES = 3
_QUOTED_CHARS = 300
#: Seconds to wait for the guardian, which itself waits less for the server.
_END_S = 20.0


class ServerProcess:
    """A command with its guardian; its output goes to a log.

    Args:
        command: The command.
        environment: Its environment variables.
        log: File to which its output is appended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.n_starts = 0

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C in the terminal reaches only the trainer, which then ends it."""
        self.n_starts += 1
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, guardian.__file__, str(os.getpid()), *self._command],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the server's first process runs."""
        return self._process is not None and self._process.poll() is None

    def end(self, at_once: bool = False) -> None:
        """End it with all of its processes; `at_once` if the server hangs and would not end by itself."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def last_words(self) -> str:
        """The last lines of its log that name an error, or else the last lines."""
        lines: list[str] = []
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "error:" in line]
        quoted = " / ".join((errors or lines)[-_QUOTED_LINES:])
        return quoted[-_QUOTED_CHARS:]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
