"""Memory that a training step on a CPU frees and allocates again."""

from __future__ import annotations

import ctypes
import sys

#: Parameters of glibc's `mallopt`, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Bytes of freed memory to keep, and size in bytes of the largest block in it that glibc allows.
_KEPT, _LARGEST_BLOCK = 1 << 30, 32 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of the memory that it frees; False if its allocator is not glibc's.

    By default glibc returns most of the freed memory to the kernel, and the next step gets it back page by page, each
    page zeroed. In a virtual machine this takes several percent of a step's time. The peak memory does not change.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
