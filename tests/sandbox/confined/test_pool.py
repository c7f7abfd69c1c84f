"""Every task gets an answer, whatever happens to workers and to the zygotes that make them."""

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

from sandbox import Observation, ToolRequest
from sandbox.confined.client import Zygote
from sandbox.lanes.confined import ConfinedLane
from tests.sandbox.confined.kept import IMAGE, LIMITS
from tests.sandbox.machine import need


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
        assert statuses.count("crash") <= 2, seen  # the calls that ran
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
