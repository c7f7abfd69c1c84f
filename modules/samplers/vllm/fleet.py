"""Starts, watches, restarts and ends the servers of a trainer."""

from __future__ import annotations

import atexit
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from cv_lightning.errors import EngineError
from modules.samplers.vllm.process import ServerProcess
from modules.samplers.vllm.server import Server, ServerFault

_LOOK_EVERY_S = 0.5
#: A server that does not report its health within this time hangs.
_DEAF_S = 30.0


class Fleet:
    """Servers and their processes, in one trainer process.

    Args:
        made: Each server's URL and process, not started.
        start_s: Longest time that a start may take.
        restarts: Maximum number of restarts of each server.
        complaints: Folder in which any process of the trainer leaves the number of a server that hangs.
    """

    def __init__(
        self, made: Sequence[tuple[str, ServerProcess]], start_s: float, restarts: int, complaints: Path
    ) -> None:
        self.servers = [Server(url) for url, _ in made]
        self._processes = [process for _, process in made]
        self._start_s = start_s
        self._restarts = restarts
        self._complaints = complaints
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._is_watching = threading.Event()
        self._is_ended = threading.Event()
        atexit.register(self.end)

    def bring_up(self) -> list[Server]:
        """Start the servers that are not running, and wait until they answer.

        Returns:
            The servers that were started.

        Raises:
            EngineError: A server does not start, or was restarted too often.
        """
        with self._lock:
            self._heed_complaints()
            for process, server in zip(self._processes, self.servers, strict=True):
                if process.is_running and not server.is_healthy(_DEAF_S):  # it ended a moment ago, or hangs
                    process.end(at_once=True)
            down = [index for index, process in enumerate(self._processes) if not process.is_running]
            for index in down:
                self._start(index)
            self._wait(down)
            return [self.servers[index] for index in down]

    def watch(self, revived: Callable[[Server], None], failed: Callable[[EngineError], None]) -> None:
        """Start watching, in a thread.

        Args:
            revived: Called with a restarted server, which has no weights yet.
            failed: Called if a server does not come back.
        """
        self._revived, self._failed = revived, failed
        self._is_watching.set()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
            self._watcher.start()

    def rest(self) -> None:
        """Stop watching; a restart that has begun is completed first."""
        self._is_watching.clear()
        with self._lock:
            pass

    def discard(self) -> None:
        """End all servers, because their state is unknown; `bring_up` starts them again."""
        with self._lock:
            for process in self._processes:
                process.end(at_once=True)

    def end(self) -> None:
        """End all servers."""
        self._is_ended.set()
        self._is_watching.set()  # wakes the watcher, which then ends
        for process in self._processes:
            process.end()
        for server in self.servers:
            server.close()
        atexit.unregister(self.end)

    def last_words(self) -> str:
        """The last lines of the servers' logs."""
        return "; ".join(f"{process.log}: {process.last_words()}" for process in self._processes)

    def _watch(self) -> None:
        while not self._is_ended.is_set():
            self._is_watching.wait()
            with self._lock:
                if not self._is_watching.is_set() or self._is_ended.is_set():
                    continue
                try:
                    self._revive()
                except EngineError as error:
                    self._is_watching.clear()
                    self._failed(error)
            self._is_ended.wait(_LOOK_EVERY_S)

    def _revive(self) -> None:
        for server in self.bring_up():
            try:
                self._revived(server)
            except ServerFault:  # it ended again or is broken: it is started again
                self._processes[self.servers.index(server)].end()

    def _heed_complaints(self) -> None:
        """End servers that hang, so that they are started again."""
        for path in self._complaints.glob("*.hangs") if self._complaints.is_dir() else ():
            path.unlink(missing_ok=True)
            self._processes[int(path.stem)].end(at_once=True)

    def _start(self, index: int) -> None:
        process = self._processes[index]
        if process.n_starts:
            if process.n_starts > self._restarts:
                raise EngineError(f"launch.restarts: the engine ended too often. {process.log}: {process.last_words()}")
            warnings.warn(
                f"The engine at {self.servers[index].url} ended and is started again. {process.log}: "
                f"{process.last_words()}",
                UserWarning,
                stacklevel=3,
            )
        process.end()
        process.start()

    def _wait(self, indices: Sequence[int]) -> None:
        deadline = time.monotonic() + self._start_s
        for index in indices:
            process, server = self._processes[index], self.servers[index]
            while not server.is_healthy():
                if self._is_ended.is_set():
                    raise EngineError("the engine was ended while it started")
                if not process.is_running:
                    raise EngineError(f"launch: the engine did not start. {process.log}: {process.last_words()}")
                if time.monotonic() > deadline:
                    process.end()
                    raise EngineError(
                        f"launch.start_s: the engine did not answer within {self._start_s:g} s. Raise launch.start_s, "
                        f"or look into {process.log}: {process.last_words()}"
                    )
                self._is_ended.wait(_LOOK_EVERY_S)


def complain(folder: Path, index: int) -> None:
    """Report that a server hangs; the first process ends and restarts it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{index}.hangs").touch()
