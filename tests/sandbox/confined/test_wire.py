"""Replies that a worker may send; any other message is no reply."""

from __future__ import annotations

import random

import pytest

from sandbox.confined import wire

CAPACITY = 1 << 20


def valid_reply(nonce: int, text: bytes = b"hello") -> bytes:
    return wire.REPLY.pack(wire.REPLY_MAGIC, nonce, wire.IMAGE, 24, 16, len(text), 0) + text


def test_a_valid_reply_is_read() -> None:
    assert wire.read_reply(valid_reply(7), 7, CAPACITY) == wire.WorkerReply(wire.IMAGE, (24, 16), "hello")


@pytest.mark.parametrize(
    ("message", "nonce"),
    [
        (b"", 7),
        (valid_reply(7)[:10], 7),
        (valid_reply(8), 7),
        (valid_reply(7) + b"more", 7),
        (valid_reply(7)[:-1], 7),
        (wire.REPLY.pack(b"CVr1", 7, 0, 4, 4, 0, 0), 7),
        (wire.REPLY.pack(wire.REPLY_MAGIC, 7, 9, 4, 4, 0, 0), 7),
        (wire.REPLY.pack(wire.REPLY_MAGIC, 7, 0, 0, 4, 0, 0), 7),
        (wire.REPLY.pack(wire.REPLY_MAGIC, 7, 0, 1 << 10, 1 << 9, 0, 0), 7),
        (wire.REPLY.pack(wire.REPLY_MAGIC, 7, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0), 7),
    ],
)
def test_what_is_no_reply_is_none(message: bytes, nonce: int) -> None:
    assert wire.read_reply(message, nonce, CAPACITY) is None


def mutated(generator: random.Random, message: bytes) -> bytes:
    """The message with some bytes changed, cut, repeated or added."""
    data = bytearray(message)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data) + 1)
        match generator.randrange(4):
            case 0 if data:
                data[place % len(data)] = generator.randrange(256)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = generator.randbytes(generator.randint(1, 9))
            case _:
                data += data[:place]
    return bytes(data)


def test_a_hundred_thousand_mutated_replies() -> None:
    generator = random.Random(0)
    n_read = 0
    for _ in range(100_000):
        message = mutated(generator, valid_reply(0x1122334455667788, generator.randbytes(5)))
        reply = wire.read_reply(message, 0x1122334455667788, CAPACITY)
        if reply is not None:
            n_read += 1
            assert 4 * reply.size[0] * reply.size[1] <= CAPACITY
            assert message.startswith(wire.REPLY_MAGIC)
    assert 0 < n_read < 60_000


def test_a_reply_may_say_that_inputs_are_in_use() -> None:
    message = wire.REPLY.pack(wire.REPLY_MAGIC, 7, wire.TEXT_ONLY | wire.KEEPS, 0, 0, 0, 0)
    assert wire.read_reply(message, 7, 100) == wire.WorkerReply(wire.TEXT_ONLY, (0, 0), "", keeps=True)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_half_a_size_is_no_reply(size: tuple[int, int]) -> None:
    rest = b"result = image.transpose(2)\n"
    message = wire.REPLY.pack(wire.REPLY_MAGIC, 7, wire.UNFINISHED, *size, 0, len(rest)) + rest
    assert wire.read_reply(message, 7, 1 << 20) is None
    empty = wire.REPLY.pack(wire.REPLY_MAGIC, 7, wire.UNFINISHED, 0, 0, 0, 1) + b"\n"
    assert wire.read_reply(empty, 7, 1 << 20) is None
    whole = wire.REPLY.pack(wire.REPLY_MAGIC, 7, wire.UNFINISHED, 0, 0, 0, len(rest)) + rest
    assert wire.read_reply(whole, 7, 1 << 20) == wire.WorkerReply(
        wire.UNFINISHED, (0, 0), "", rest="result = image.transpose(2)"
    )
