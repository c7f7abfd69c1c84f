"""The protocol of trainer, zygote and worker: fixed binary messages on packet sockets, shared memory, no pickle.

A worker gets one request and sends exactly one reply. A reply is data about that call only: sizes are checked against
the shared memory that the trainer made, and its claim of how an image was made is proven or dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]

#: Trainer to zygote, with the worker's end of its socket and the worker's own null device: (magic, worker id).
SPAWN = struct.Struct("<4sQ")
SPAWN_MAGIC = b"CVs1"
#: Zygote to trainer: (magic, kind, worker id, status). `FORKED` carries a pidfd; `EXITED` a wait status; `REFUSED` an
#: errno.
NOTICE = struct.Struct("<4scQi")
NOTICE_MAGIC = b"CVn1"
FORKED, EXITED, REFUSED = b"f", b"x", b"r"
#: Worker to trainer, once, before it has seen any request.
HELLO = b"CVh1"
#: (magic, nonce, images, chosen index, bytes of code or of a program, characters of text, bytes of a result, new
#: inputs, new output). For each of the last two that is set, the message carries the descriptor of the file to use from
#: now on.
REQUEST = struct.Struct("<4sQIIIIQ??")
REQUEST_MAGIC = b"CVq1"
#: Width, height and offset of an image in the input file.
PLACE = struct.Struct("<IIQ")
#: (magic, nonce, outcome, width, height, bytes of text, bytes of a claim), followed by text and claim. The claim of an
#: unfinished result begins with a line for the remaining call, which runs on the chosen image if the size is 0 x 0.
REPLY = struct.Struct("<4sQBIIII")
REPLY_MAGIC = b"CVr2"
#: Outcomes of a reply.
IMAGE, TEXT_ONLY, FAILED, EMPTY, UNFINISHED = 0, 1, 2, 3, 4
#: Added to an outcome if variables still hold input images, so that their memory must not be written again.
KEEPS = 16

#: Largest number of bytes of a message, of the code, program or text in it, and of a claim; longer ones are dropped.
MAX_MESSAGE, MAX_PAYLOAD, MAX_CLAIM = 1 << 17, 1 << 16, 1 << 12
MAX_IMAGES = 100

#: Alignment in bytes of every image in an input file.
PAGE = 4096


def layout(sizes: Sequence[Size]) -> tuple[list[int], int]:
    """Offsets of images of these sizes in an input file, each on pages of its own, and the total number of bytes."""
    places, end = [], 0
    for width, height in sizes:
        places.append(end)
        end += -(-4 * width * height // PAGE) * PAGE
    return places, end


@dataclass(frozen=True)
class Made:
    """A worker's answer to a request.

    Attributes:
        outcome: One of the outcomes of a reply.
        image: The pixels to hand over.
        text: Text for the policy, or the effects of a program.
        claim: How the result was made, as a snippet.
        rest: The remaining call, as a snippet; "" if the result is finished.
    """

    outcome: int
    image: Image.Image | None = None
    text: str = ""
    claim: str = ""
    rest: str = ""


@dataclass(frozen=True)
class WorkerReply:
    """A checked reply: an outcome, the size of the pixels, text, and whether inputs are still in use.

    `claim` is the worker's statement of how it made the result, and `rest` the remaining call. Both are unchecked.
    """

    outcome: int
    size: Size
    text: str
    keeps: bool = False
    claim: str = ""
    rest: str = ""


def pack_reply(nonce: int, made: Made) -> bytes:
    """Encode a reply as bytes."""
    claim = f"{made.rest}\n{made.claim}" if made.rest else made.claim
    if len(claim) > MAX_CLAIM:
        claim = made.rest
    shown, claimed = made.text.encode("utf-8", "replace")[:MAX_PAYLOAD], claim.encode("utf-8", "replace")[:MAX_CLAIM]
    size = (0, 0) if made.image is None else made.image.size
    return REPLY.pack(REPLY_MAGIC, nonce, made.outcome, *size, len(shown), len(claimed)) + shown + claimed


def keeping(message: bytes) -> bytes:
    """Mark a reply: variables still hold input images."""
    place = REPLY.size - struct.calcsize("<BIIII")
    return message[:place] + bytes([message[place] | KEEPS]) + message[place + 1 :]


def read_reply(message: bytes, nonce: int, capacity: int) -> WorkerReply | None:
    """Read the reply in a message; None if it is not a valid reply to the request with this nonce.

    Args:
        message: The worker's message.
        nonce: The nonce of the request.
        capacity: Bytes of the result's shared memory.
    """
    if len(message) < REPLY.size:
        return None
    magic, echoed, outcome, width, height, n_text, n_claim = REPLY.unpack_from(message)
    keeps, outcome = bool(outcome & KEEPS), outcome & ~KEEPS
    if magic != REPLY_MAGIC or echoed != nonce or outcome not in (IMAGE, TEXT_ONLY, FAILED, EMPTY, UNFINISHED):
        return None
    if len(message) != REPLY.size + n_text + n_claim or 4 * width * height > capacity:
        return None
    if outcome == IMAGE and (width < 1 or height < 1):
        return None
    text, claim = message[REPLY.size : REPLY.size + n_text], message[REPLY.size + n_text :]
    claimed, rest = claim.decode("utf-8", "replace") if n_claim <= MAX_CLAIM else "", ""
    if outcome == UNFINISHED:
        rest, _, claimed = claimed.partition("\n")
        if not rest or (width < 1) != (height < 1):
            return None
    return WorkerReply(outcome, (width, height), text.decode("utf-8", "replace"), keeps, claimed, rest)
