"""Memory that a training step on a CPU frees and takes again."""

from __future__ import annotations

import ctypes
import sys

#: Parameters of glibc's `mallopt`, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Bytes of freed memory that are kept, and of the largest block among them that glibc allows.
_KEPT, _LARGEST_BLOCK = 1 << 30, 32 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of what it frees; False if its allocator is not glibc's.

    By default glibc returns most of what a step frees to the kernel, and the next step gets it back page by page,
    each zeroed. In a virtual machine that is several percent of a step. The peak stays as it is.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
