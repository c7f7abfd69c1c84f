"""One cgroup (v2) over a zygote and all its workers, if a cgroup with the controllers is delegated to this user."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory", "pids")
_PERIOD_US = 100_000
_numbers = itertools.count()


class Cgroup:
    """Limits for all workers together.

    Args:
        pid: The zygote's process, which is moved into the new cgroup; the processes that it forks start there.
        memory: Bytes of memory.
        tasks: Number of processes and threads.
        cores: Processor time, in cores.
        root: Mount point of cgroups.

    Raises:
        OSError: No cgroup is delegated; the message says what is missing.
    """

    def __init__(self, pid: int, memory: int, tasks: int, cores: float, root: Path = _ROOT) -> None:
        parent = _delegated(root)
        self._folder = parent / f"cv-sandbox-{os.getpid()}-{next(_numbers)}"
        self._folder.mkdir()
        limits = {
            "memory.max": memory,
            "pids.max": tasks,
            "cpu.max": f"{int(cores * _PERIOD_US)} {_PERIOD_US}",
            "cgroup.procs": pid,
        }
        try:
            with contextlib.suppress(OSError):  # a kernel without swap has no such file
                (self._folder / "memory.swap.max").write_text("0")
            for name, value in limits.items():
                (self._folder / name).write_text(str(value))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Remove the cgroup; its processes must have ended."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _delegated(root: Path) -> Path:
    """The nearest cgroup around this process in which this user may make children that have all controllers."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    name = next((line[3:] for line in own if line.startswith("0::")), None)
    if name is None or not (root / "cgroup.controllers").exists():
        raise OSError("cgroup v2 is not mounted")
    folder = root / name.strip("/")
    missing: set[str] = set(_CONTROLLERS)
    for candidate in (folder, *folder.parents):
        if not candidate.is_relative_to(root):
            break
        with contextlib.suppress(OSError):
            missing = set(_CONTROLLERS) - set((candidate / "cgroup.subtree_control").read_text().split())
            if not missing and os.access(candidate, os.W_OK) and os.access(candidate / "cgroup.procs", os.W_OK):
                return candidate
    reason = f"no controller {', '.join(sorted(missing))}" if missing else "no right to make one"
    raise OSError(f"no cgroup is delegated: {reason}")
