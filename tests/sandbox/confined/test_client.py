"""The trainer's end: the level that it accepts; a kept worker computes nothing between its calls."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sandbox import ConfinementError, ToolRequest
from sandbox.confined.client import Zygote
from tests.sandbox.attack_site import descendants
from tests.sandbox.confined.kept import IMAGE, kept
from tests.sandbox.machine import need


def test_a_level_that_is_not_there_is_refused_with_what_is_missing() -> None:
    need()
    zygote = Zygote("code", 1, 64, 1 << 20, 5, without=("namespaces", "landlock"))
    try:
        with pytest.raises(ConfinementError, match=r"level 'full'.*gives 'syscall'; missing: landlock"):
            zygote.require("full")
    finally:
        zygote.close()


#: Answers in the worker's place, then continues to compute.
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


def test_the_level_says_whether_there_is_a_cgroup() -> None:
    lane = kept()
    try:
        (seen,) = lane.run([ToolRequest("print(1)", [IMAGE], episode="a")])
        has_group = not lane._pool._workers.layers["cgroup"]
        assert seen.level == lane.level + "+cgroup" * has_group
    finally:
        lane.close()
