"""Shared memory files that are used again and again: page faults of new files cost more than most operations.

A file belongs to one worker until that worker is known to be dead; its contents are overwritten before the next worker
gets it. Input files are sealed so that only the trainer can write to them, through the mapping that it made before. All
files are sealed against growing and shrinking, so that no access can fail.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from functools import cache

from sandbox.confined.copies import rounded

_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_FUTURE_WRITE = 1, 2, 4, 16
_ADD_SEALS = 1033
_POPULATE_WRITE = 23
_FAILED = ctypes.c_void_p(-1).value
#: Number of bytes that can be overwritten quickly.
_SMALL = 1 << 20
#: Bytes, and number, of all files of one kind that wait for their next worker.
_MAX_IDLE, _MOST_IDLE = 1 << 27, 32
_PAGE = mmap.PAGESIZE


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


class Slot:
    """A memory file and the trainer's mapping of it.

    Attributes:
        descriptor: The file, to be sent to a worker.
        length: Capacity in bytes.
        extent: Bytes from the start that may have been used.
        populated: Bytes from the start that are in memory.
        memory: The bytes. `close` ends the mapping, so no view of them may be used after it.

    Args:
        length: Bytes; pages are allocated when they are first touched.
        is_input: Whether only this mapping may write.

    Raises:
        OSError: The machine has no memory or descriptor left.
    """

    def __init__(self, length: int, *, is_input: bool) -> None:
        self.length, self.extent, self.populated = length, 0, 0
        self.descriptor = os.memfd_create("cv-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, length)
            address = _libc().mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.descriptor, 0)
            if address is None or address == _FAILED:
                raise OSError(ctypes.get_errno(), "mmap")
            self._address: int = address
            seals = _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL | (_SEAL_FUTURE_WRITE if is_input else 0)
            fcntl.fcntl(self.descriptor, _ADD_SEALS, seals)
        except OSError:
            os.close(self.descriptor)
            raise
        self.memory = memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")

    def reserve(self, length: int) -> None:
        """Load the first `length` bytes into memory at once; faulting the pages in one by one would cost more."""
        if length > self.populated:
            _libc().madvise(self._address, length, _POPULATE_WRITE)
            self.populated = length
        self.extent = max(self.extent, length)

    def shorten(self, length: int) -> None:
        """Overwrite data of an earlier use beyond `length`."""
        if self.extent > length:
            ctypes.memset(self._address + length, 0, self.extent - length)
        self.extent = min(self.extent, length)

    def blank(self) -> bool:
        """Overwrite everything that a worker wrote; False if it wrote outside the range that its replies named."""
        used = min(self.length, -(-max(self.extent, self.populated) // _PAGE) * _PAGE)
        if used > 8 * self.extent + _SMALL:
            return False
        ctypes.memset(self._address, 0, used)
        self.extent = 0
        return os.fstat(self.descriptor).st_blocks * 512 <= -(-used // _PAGE) * _PAGE

    def rewind(self) -> None:
        """Reset what a worker can record in the file itself: its position, its flags, the time when it was read."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, 0)
        os.utime(self.descriptor, ns=(0, 0))

    def close(self) -> None:
        """Release mapping and descriptor; other processes keep theirs."""
        _libc().munmap(self._address, self.length)
        os.close(self.descriptor)


class Slots:
    """Memory files of one kind that wait for their next use.

    Args:
        is_input: Whether they hold inputs, which only the trainer writes, or results.
    """

    def __init__(self, *, is_input: bool) -> None:
        self._is_input = is_input
        self._idle: list[Slot] = []

    def take(self, length: int) -> Slot:
        """A file for at least `length` bytes, without data of an earlier use beyond them.

        Raises:
            OSError: The machine has no memory or descriptor left.
        """
        fitting = [slot for slot in self._idle if length <= slot.length <= 4 * length + _SMALL]
        if not fitting:
            return Slot(rounded(length), is_input=self._is_input)
        slot = min(fitting, key=lambda slot: slot.length)
        self._idle.remove(slot)
        slot.shorten(length)
        return slot

    def give(self, slot: Slot) -> None:
        """Take back a file that no other process holds any more."""
        idle = slot.populated + sum(other.populated for other in self._idle)
        if idle > _MAX_IDLE or len(self._idle) >= _MOST_IDLE or not (self._is_input or slot.blank()):
            slot.close()
            return
        try:
            slot.rewind()
        except OSError:
            slot.close()
        else:
            self._idle.append(slot)

    def close(self) -> None:
        """Close all files."""
        for slot in self._idle:
            slot.close()
        self._idle.clear()
