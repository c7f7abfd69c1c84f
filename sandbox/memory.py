"""Measures the memory of this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    On Linux `ru_maxrss` would be wrong: in a new process it begins with the memory of the process that started it.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if "VmHWM:" in status:
            return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # Windows does not have it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
