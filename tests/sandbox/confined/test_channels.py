"""Workers cannot tell each other anything, outlive their call, or take what belongs to all."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sandbox import ToolRequest
from sandbox.confined.client import Zygote
from tests.sandbox.attack_site import descendants
from tests.sandbox.confined.kept import IMAGE, kept
from tests.sandbox.confined.test_layers import observe_all, reached
from tests.sandbox.machine import need

#: One worker notes a bit in a file description that the other one looks at.
NOTE = "import fcntl\nfor fd in (0, 1, 2):\n    fcntl.ioctl(fd, 0x5421, b'\\x01\\0\\0\\0')\nprint('noted')"
LOOK = "import fcntl, os\nprint('REACHED' if fcntl.fcntl(0, 3) & os.O_NONBLOCK else 'clean')"


@pytest.mark.parametrize(
    ("without", "is_told"),
    [(("seccomp", "null"), True), (("seccomp",), False), (("null",), False), ((), False)],
    ids=["neither", "own null device", "filter", "both"],
)
def test_no_file_description_is_shared(without: tuple[str, ...], is_told: bool) -> None:
    need()
    _, seen = observe_all([NOTE, LOOK], without)
    assert reached(seen) == is_told, seen


#: Answers for the worker, and computes on.
COMPUTES_ON = """import os, sys, time
from sandbox.confined import wire
nonce = sys._getframe(2).f_locals["request"].nonce
os.write(3, wire.pack_reply(nonce, wire.Made(wire.TEXT_ONLY, text="done")))
while True: pass
"""


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("stops", [True, False])
def test_an_episode_computes_nothing_between_its_calls(stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not stops:
        monkeypatch.setattr(Zygote, "pause", lambda zygote, worker: None)
    lane = kept()
    try:
        (seen,) = lane.run([ToolRequest(COMPUTES_ON, [IMAGE], episode="a")])
        assert seen.text == "done"
        time.sleep(0.1)
        pids = descendants(lane._pool._workers._process.pid)
        before = {pid: processor_ticks(pid) for pid in pids}
        time.sleep(1)
        spent = sum(processor_ticks(pid) - before[pid] for pid in pids)
        assert (spent <= 2) == stops, spent
    finally:
        lane.close()


def test_a_stopped_episode_goes_on_with_its_variables() -> None:
    lane = kept()
    try:
        for _ in range(3):
            (seen,) = lane.run([ToolRequest("n = globals().get('n', 0) + 1\nprint(n)", [IMAGE], episode="a")])
        assert seen.text.strip() == "3"
    finally:
        lane.close()


def test_the_level_says_whether_there_is_a_cgroup() -> None:
    lane = kept()
    try:
        (seen,) = lane.run([ToolRequest("print(1)", [IMAGE], episode="a")])
        has_group = not lane._pool._workers.layers["cgroup"]
        assert seen.level == lane.level + "+cgroup" * has_group
    finally:
        lane.close()
