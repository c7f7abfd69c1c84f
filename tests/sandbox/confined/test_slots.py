"""Attacks of a hostile worker on the image memory that it shares and that the next worker gets after it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from sandbox import Limits, Observation, ToolRequest
from sandbox.confined import client
from sandbox.confined.slots import Slots
from sandbox.effects.proof import find_credit
from sandbox.lanes.confined import ConfinedLane
from tests.sandbox.machine import need, noise

SMALL, LARGE = noise(24, 16), noise(64, 64)
#: Bytes of SMALL in the shared memory.
N_BYTES = 4 * 24 * 16
#: Objects that code finds in the worker's own frames, and a way to answer in the worker's place.
REACH = """import mmap, os, socket, sys
from sandbox.confined import wire
frame = sys._getframe(2).f_locals
memory, channel, nonce = frame["memory"], frame["channel"], frame["request"].nonce
def say(nonce, outcome, width, height, text=b""):
    os.write(3, wire.REPLY.pack(wire.REPLY_MAGIC, nonce, outcome, width, height, len(text), 0) + text)
"""


@pytest.fixture
def calls() -> Iterator[ConfinedLane]:
    need()
    lane = ConfinedLane(1, Limits(wall_s=5, memory_mb=256), "syscall", "call")
    yield lane
    lane.close()


@pytest.fixture
def episodes() -> Iterator[ConfinedLane]:
    need()
    lane = ConfinedLane(1, Limits(wall_s=5, memory_mb=256), "syscall", "episode")
    yield lane
    lane.close()


def observe(lane: ConfinedLane, code: str, image: Image.Image, episode: str = "") -> Observation:
    return lane.run([ToolRequest(code, [image], episode=episode)])[0]


def settle(lane: ConfinedLane) -> None:
    """Take back the files of the last worker, as happens once it is dead."""
    zygote = lane._pool._workers
    deadline = time.monotonic() + 60
    while zygote._dying and time.monotonic() < deadline:
        zygote._bury()
        time.sleep(0.01)
    assert zygote._inputs._idle, "the test shows nothing where no file is used again"


def test_what_lies_behind_an_image_is_not_another_image(calls: ConfinedLane) -> None:
    assert observe(calls, "result = image.rotate(90)", LARGE).status == "ok"
    settle(calls)
    text = observe(calls, REACH + "print(any(memory.inputs[@:]))".replace("@", str(N_BYTES)), SMALL).text
    assert text.strip() == "False"


def test_what_a_worker_hides_behind_its_result_is_erased(calls: ConfinedLane) -> None:
    hide = f"mapped = mmap.mmap(memory._output, 8192)\nmapped[{N_BYTES}:{N_BYTES + 6}] = b'hidden'\nresult = image"
    assert observe(calls, REACH + hide, SMALL).status == "ok"
    settle(calls)
    assert calls._pool._workers._outputs._idle
    text = observe(calls, REACH + "print(any(mmap.mmap(memory._output, 8192)[:]))", SMALL).text
    assert text.strip() == "False"


def test_position_and_times_of_a_file_tell_nothing(calls: ConfinedLane) -> None:
    leave = "print(os.lseek(memory._output, 12345, 0))"
    look = "import fcntl\nprint(os.lseek(memory._output, 0, 1), fcntl.fcntl(memory._output, 3) & os.O_NONBLOCK)"
    assert observe(calls, REACH + leave, SMALL).text.strip() == "12345"
    settle(calls)
    assert [os.fstat(slot.descriptor).st_atime_ns for slot in calls._pool._workers._outputs._idle] == [0]
    assert observe(calls, REACH + look, SMALL).text.split() == ["0", "0"]


def test_a_worker_cannot_collect_files_of_inputs(episodes: ConfinedLane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MAX_LEFT", 1 << 20)
    collect = """say(nonce, wire.TEXT_ONLY | wire.KEEPS, 0, 0, b"0")
kept = []
while True:
    message, files, _, _ = socket.recv_fds(channel, 1 << 17, 4)
    kept += files
    say(wire.REQUEST.unpack_from(message)[1], wire.TEXT_ONLY | wire.KEEPS, 0, 0, b"more")
"""
    seen = [observe(episodes, REACH + collect, LARGE, "a") for _ in range(6)]
    assert [observation.status for observation in seen] == ["ok"] * 5 + ["crash"]
    assert "too many images" in seen[-1].text


def test_a_result_cannot_change_after_it_was_judged(episodes: ConfinedLane) -> None:
    race = f"""mapped, raw = mmap.mmap(memory._output, 8192), bytes(memory.inputs[:{N_BYTES}])
mapped[:{N_BYTES}] = raw
say(nonce, wire.IMAGE, 24, 16)
while True:
    mapped[:{N_BYTES}] = os.getrandom({N_BYTES})
    mapped.madvise(9, 0, 4096)
    mapped[:{N_BYTES}] = raw
"""
    for number in range(10):
        observation = observe(episodes, REACH + race, SMALL, f"episode {number}")
        assert observation.image is not None
        at_once = observation.image.tobytes()
        time.sleep(0.01)
        assert observation.image.tobytes() == at_once
        found = find_credit([SMALL], 0, observation.image, observation.claim)
        assert (found.orientation == "identity") == (at_once == SMALL.tobytes())


def test_an_idle_file_is_erased_to_the_end_of_its_page() -> None:
    need()
    slots = Slots(is_input=False)
    slot = slots.take(100)
    slot.reserve(100)
    slot.memory[:4096] = b"x" * 4096
    slots.give(slot)
    assert slots.take(100) is slot
    assert not any(slot.memory)
    slot.close()
