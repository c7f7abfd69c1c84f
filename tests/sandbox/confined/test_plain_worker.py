"""The worker of plain processes, asked over its pipe without a lane."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest

from sandbox.confined import wire
from sandbox.confined.plain_worker import serve
from sandbox.lanes.process import Spawned
from tests.sandbox.machine import noise

IMAGES = [noise(20, 12), noise(9, 8, 5)]


@pytest.fixture(scope="module")
def pipe() -> Iterator[Connection]:
    process = Spawned(serve, "code", 256, repeats=True)
    assert process.pipe.poll(60)
    assert process.pipe.recv_bytes() == wire.HELLO
    yield process.pipe
    process.end()


def ask(pipe: Connection, code: str, nonce: int = 7, chosen: int = 0) -> tuple[wire.WorkerReply | None, bytes]:
    payload = code.encode()
    head = wire.REQUEST.pack(wire.REQUEST_MAGIC, nonce, len(IMAGES), chosen, len(payload), 100, 1 << 20, False, False)
    places = b"".join(wire.PLACE.pack(*image.size, 0) for image in IMAGES)
    pixels = b"".join(image.tobytes("raw", "RGBX") for image in IMAGES)
    pipe.send_bytes(head + places + payload + pixels)
    assert pipe.poll(60)
    reply = wire.read_reply(pipe.recv_bytes(), nonce, 1 << 20)
    return reply, pipe.recv_bytes() if reply is not None and reply.size != (0, 0) else b""


@pytest.mark.parametrize("chosen", [0, 1])
def test_it_answers_with_the_pixels_of_the_chosen_image(chosen: int, pipe: Connection) -> None:
    reply, pixels = ask(pipe, "print(image.size)\nresult = image.rotate(180)", chosen=chosen)
    assert reply is not None
    assert reply.size == IMAGES[chosen].size
    assert reply.text.strip() == str(IMAGES[chosen].size)
    width, height = reply.size
    found = np.frombuffer(pixels, np.uint8).reshape(height, width, 4)[..., :3]
    np.testing.assert_array_equal(found, np.asarray(IMAGES[chosen].rotate(180)))


def test_names_live_on_but_results_and_streams_do_not(pipe: Connection) -> None:
    ask(pipe, "kept = 5\nresult = image")
    reply, _ = ask(pipe, "import os, sys\nprint(kept, 'result' in globals(), len(os.environ), os.fstat(0).st_mode % 8)")
    assert reply is not None
    assert reply.text.split()[:3] == ["5", "False", "0"]


def test_its_memory_is_capped_whatever_this_process_holds() -> None:
    held = b"x" * (1200 << 20)
    process = Spawned(serve, "code", 256, repeats=True)
    try:
        assert process.pipe.poll(60)
        assert process.pipe.recv_bytes() == wire.HELLO
        reply, _ = ask(process.pipe, f"result = Image.fromarray(np.ones(({len(held)}, 1), np.uint8)[:9, :9])")
    finally:
        process.end()
    assert reply is not None
    assert "MemoryError" in reply.text
