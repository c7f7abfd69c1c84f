"""How trainer, zygote and worker talk: fixed binary messages over packet sockets, pixels in shared memory. No pickle.

A worker gets one request and sends exactly one reply. What a reply says is data about that call only: sizes are checked
against the shared memory that the trainer made, and nothing in it is believed about how an image came to be.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]

#: Trainer to zygote, with the worker's end of its socket: (worker id).
SPAWN = struct.Struct("<4sQ")
SPAWN_MAGIC = b"CVs1"
#: Zygote to trainer: (kind, worker id, status). `FORKED` carries a pidfd; `EXITED` a wait status.
NOTICE = struct.Struct("<4scQi")
NOTICE_MAGIC = b"CVn1"
FORKED, EXITED = b"f", b"x"
#: Worker to trainer, once, before it has seen any request.
HELLO = b"CVh1"
#: (magic, nonce, images, chosen index, bytes of code, characters of text, most pixels of a result, bytes of memory)
REQUEST = struct.Struct("<4sQIIIIQ")
REQUEST_MAGIC = b"CVq1"
SIZE = struct.Struct("<II")
#: (magic, nonce, outcome, width, height, bytes of text)
REPLY = struct.Struct("<4sQBIII")
REPLY_MAGIC = b"CVr1"
#: Outcomes of a reply.
IMAGE, TEXT_ONLY, FAILED, EMPTY = 0, 1, 2, 3

#: Bytes that a message may have.
MAX_MESSAGE = 1 << 17
MAX_IMAGES = 100

_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 1, 2, 4, 8
_ADD_SEALS = 1033


def view(buffer: Any, size: Size) -> Image.Image:
    """A read-only RGB image over 4-byte pixels in a buffer, without a copy."""
    return Image.fromarrow(Image.frombuffer("RGBX", size, buffer, "raw", "RGBX", 0, 1), "RGB", size)


def pixels(buffer: Any, size: Size) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same pixels as an array of shape (H, W, 4), without a copy; the last channel means nothing."""
    return np.frombuffer(buffer, np.uint8, 4 * size[0] * size[1]).reshape(size[1], size[0], 4)


def map_memory(descriptor: int, length: int, *, is_writable: bool = False) -> mmap.mmap:
    """Map a memory file, its pages at once: one by one their faults cost more than the copy."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    return mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)


def copy_into(buffer: Any, image: Image.Image) -> None:
    """Write an RGB image into a buffer, as 4-byte pixels."""
    image.load()
    view(buffer, image.size).im.paste(image.im, (0, 0, *image.size))


def make_memory(name: str, length: int) -> int:
    """A memory file of `length` bytes that can neither grow nor shrink."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, length)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def share_image(image: Image.Image) -> int:
    """A memory file that holds an RGB image, sealed against every change."""
    length = 4 * image.width * image.height
    descriptor = make_memory("cv-input", length)
    try:
        with map_memory(descriptor, length, is_writable=True) as memory:
            copy_into(memory, image)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL_WRITE | _SEAL_SEAL)
    except (OSError, ValueError, BufferError):
        os.close(descriptor)
        raise
    return descriptor


@dataclass(frozen=True)
class Reply:
    """A checked reply: an outcome, the result's size where there is one, and text."""

    outcome: int
    size: Size
    text: str


def read_reply(message: bytes, nonce: int, capacity: int) -> Reply | None:
    """The reply in a message; None where it is no valid reply to the request with this nonce.

    Args:
        message: What the worker sent.
        nonce: The request's.
        capacity: Bytes of the result's shared memory.
    """
    if len(message) < REPLY.size:
        return None
    magic, echoed, outcome, width, height, n_bytes = REPLY.unpack_from(message)
    if magic != REPLY_MAGIC or echoed != nonce or outcome not in (IMAGE, TEXT_ONLY, FAILED, EMPTY):
        return None
    if len(message) != REPLY.size + n_bytes or 4 * width * height > capacity:
        return None
    if outcome == IMAGE and (width < 1 or height < 1):
        return None
    return Reply(outcome, (width, height), message[REPLY.size :].decode("utf-8", "replace"))
