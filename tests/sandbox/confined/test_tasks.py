"""The image of an answer is the pixels that came with it."""

from __future__ import annotations

from sandbox.confined import wire
from sandbox.confined.tasks import TaskAnswer
from tests.sandbox.machine import noise

IMAGE = noise(5, 3)
PIXELS = memoryview(IMAGE.tobytes("raw", "RGBX"))


def test_an_answer_shows_its_pixels_if_it_has_both() -> None:
    reply = wire.read_reply(wire.pack_reply(1, wire.Made(wire.IMAGE, image=IMAGE)), 1, 1 << 20)
    assert reply is not None
    shown = TaskAnswer("ok", "syscall", reply=reply, pixels=PIXELS).image
    assert shown is not None
    assert (shown.size, shown.tobytes()) == (IMAGE.size, IMAGE.tobytes())
    assert TaskAnswer("ok", "syscall", reply=reply).image is None
    assert TaskAnswer("crash", "syscall", pixels=PIXELS).image is None
