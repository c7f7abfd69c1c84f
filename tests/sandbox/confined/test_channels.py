"""Workers cannot tell each other anything, outlive their call, or take what belongs to all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, Observation, ToolRequest
from sandbox.confined.client import Zygote
from sandbox.lanes.confined import ConfinedLane
from tests.sandbox.attack_site import descendants
from tests.sandbox.confined.test_layers import observe_all, reached
from tests.sandbox.machine import need, noise

IMAGE = noise(24, 16)
LIMITS = Limits(wall_s=10, memory_mb=128)

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


def kept(limits: Limits = LIMITS) -> ConfinedLane:
    need()
    return ConfinedLane(1, limits, "syscall", "episode")


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


def test_the_level_is_probed_again_after_a_restart() -> None:
    need("confined")
    lane = ConfinedLane(1, LIMITS, "syscall", "call")
    try:
        lane._pool._start = lambda: Zygote("code", 1, 128, 1 << 20, 9, without=("namespaces", "landlock"))
        process = lane._pool._workers._process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        (seen,) = lane.run([ToolRequest("print(1)", [IMAGE])])
        assert (seen.status, seen.level, lane.level) == ("ok", "syscall", "syscall")
    finally:
        lane.close()


FEW_DESCRIPTORS = """
import json, resource, sys
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(lane="confined", workers=1, fresh="episode", limits=Limits(wall_s=9))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
image = Image.new("RGB", (4, 4))
requests = [ToolRequest("print(1)", [image], episode=str(number)) for number in range(20)]
seen = executor.execute(requests)
print(json.dumps([[o.status, o.text] for o in seen]))
"""


def test_few_descriptors_are_an_observation() -> None:
    need()
    script = FEW_DESCRIPTORS.format(root=str(Path(__file__).parents[3]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen: list[Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen[0] == ["ok", "1"]
    failed = [text for status, text in seen if status != "ok"]
    assert failed
    assert all(text == "The sandbox could not take the code: Too many open files." for text in failed), failed


def test_a_zygote_that_dies_during_a_batch_does_not_cost_the_rest_of_it() -> None:
    need()
    lane = ConfinedLane(2, LIMITS, "syscall", "call")
    try:
        code = "import time\ntime.sleep(0.2)\nprint('done')"
        zygote = lane._pool._workers._process.pid
        threading.Timer(0.3, os.kill, (zygote, signal.SIGKILL)).start()
        seen = lane.run([ToolRequest(code, [IMAGE])] * 16)
        assert lane._pool._workers._process.pid != zygote
        statuses = [observation.status for observation in seen]
        assert statuses.count("crash") <= 2, seen  # those that ran
        assert set(statuses) <= {"ok", "crash"}
    finally:
        lane.close()


def test_one_answer_that_cannot_be_read_does_not_end_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    need()
    lane = ConfinedLane(1, LIMITS, "syscall", "call")
    real = Zygote.result

    def failing(zygote: Zygote, worker: Any, size: tuple[int, int]) -> memoryview:
        if size == (16, 24):
            raise RuntimeError("of the test")
        return real(zygote, worker, size)

    monkeypatch.setattr(Zygote, "result", failing)
    try:
        codes = ["result = image", "result = image.rotate(90, expand=True)", "result = image"]
        seen: list[Observation] = lane.run([ToolRequest(code, [IMAGE]) for code in codes])
        assert [observation.status for observation in seen] == ["ok", "crash", "ok"]
        assert "of the test" in seen[1].text
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
