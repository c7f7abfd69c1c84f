"""Memory for copies of results, reused as soon as nothing holds a view of it.

Page faults of new memory cost more than the copy, and a training step holds and drops thousands of results.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref
from collections import defaultdict

#: Bytes below which the allocator's own memory is as fast, and bytes from which a block uses large pages.
_SMALL, _LARGE = 1 << 16, 1 << 21
#: Bytes of the smallest block.
_LEAST = 1 << 18
#: Bytes of all blocks that wait for their next use.
_MAX_IDLE = 1 << 27


class Copies:
    """Makes copies that belong to this process alone. Views of them may be dropped in any thread."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[mmap.mmap]] = defaultdict(list)

    def of(self, memory: memoryview) -> memoryview:
        """A copy of the bytes; its memory is reused when no view of it is left."""
        copy = self._room(len(memory))
        copy[:] = memory
        return copy

    def _room(self, n_bytes: int) -> memoryview:
        if n_bytes < _SMALL or not hasattr(mmap, "MAP_PRIVATE"):
            return memoryview(bytearray(n_bytes))
        block = self._take(rounded(n_bytes))
        array = (ctypes.c_ubyte * n_bytes).from_buffer(block)
        weakref.finalize(array, self._give, block).atexit = False
        return memoryview(array).cast("B")

    def _take(self, length: int) -> mmap.mmap:
        # A view may be dropped at any point, even by garbage collection in this method; `pop` and `append` are atomic.
        with contextlib.suppress(IndexError):
            return self._idle[length].pop()
        if length < _LARGE:
            populate = getattr(mmap, "MAP_POPULATE", 0)
            return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate)
        block = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, AttributeError):
            block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def _give(self, block: mmap.mmap) -> None:
        idle = sum(length * len(blocks) for length, blocks in [*self._idle.items()])
        if idle + len(block) <= _MAX_IDLE:
            self._idle[len(block)].append(block)


def rounded(length: int) -> int:
    """Round up by at most a quarter, so that images of similar size fit in each other's files."""
    step = max(_LEAST, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step
