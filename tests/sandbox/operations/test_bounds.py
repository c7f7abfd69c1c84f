"""Calls in the trainer are bounded: measured time and memory of calls at the edges, compared with the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits
from sandbox.lift.reader import lift
from sandbox.operations.bounds import CALL_NS, fits_in_process
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from tests.sandbox.operations.edges import calls

ROOT = str(Path(__file__).parents[3])
#: A busy machine takes longer for the same work; a call that hangs takes forever.
SLACK = 3
#: Bytes that any call may take, and bytes per pixel, besides the memory of the interpreter.
CALL_BYTES, PIXEL_BYTES = 8e6, 24
N_CALLS = 12

#: Runs calls and prints the processor time and the memory of each, as ratios to its bound.
MEASURE = """
import json, sys, time
sys.path.insert(0, {root!r})
import resource
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
import cv2
cv2.setNumThreads(0)
from sandbox.operations.table import OPERATIONS
from tests.sandbox.operations.edges import calls
from tests.sandbox.operations.test_bounds import CALL_BYTES, PIXEL_BYTES, SLACK
from sandbox.operations.bounds import CALL_NS
from sandbox.memory import peak_memory_bytes as peak

def measured(kind, values, image):
    open("/proc/self/clear_refs", "w").write("5")
    before, start = peak(), time.process_time_ns()
    try:
        after = kind.call(image, values)
    except Exception:
        after = image
    ns, n_bytes = time.process_time_ns() - start, peak() - before
    sizes = (image.size, after.size, *kind.bound.between(values, image.size))
    pixels = sum(width * height for width, height in sizes)
    return ns / (SLACK * (CALL_NS + kind.bound.ns * pixels)), n_bytes / (CALL_BYTES + PIXEL_BYTES * pixels)

for name in {names!r}:
    for values, image in calls(name, {n_calls}, {seed}):
        print(json.dumps([name, repr(values)[:200], image.size]), flush=True)
        ratios = [measured(OPERATIONS[name], values, image) for _ in range(2)]
        print(json.dumps([min(ratio[0] for ratio in ratios), max(ratio[1] for ratio in ratios)]), flush=True)
"""


def over_bound(names: list[str], n_calls: int, seed: int = 0) -> list[Any]:
    """The calls that took more time or memory than their bound, or did not end."""
    script = MEASURE.format(root=ROOT, names=names, n_calls=n_calls, seed=seed)
    freed_at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, **freed_at_once},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        return [(rows[-1:], done.stderr[-500:])]
    return [(call, ratios) for call, ratios in zip(rows[::2], rows[1::2], strict=True) if max(ratios) > 1]


BOUNDED = sorted(name for name, kind in OPERATIONS.items() if kind.bound.ns < float("inf"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("start", range(0, len(BOUNDED), 20), ids=lambda start: BOUNDED[start])
def test_calls_at_the_edges_keep_their_bound(start: int) -> None:
    assert over_bound(BOUNDED[start : start + 20], N_CALLS) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", BOUNDED)
def test_many_calls_at_the_edges_keep_their_bound(name: str) -> None:
    assert over_bound([name], 200, seed=1) == []


def test_every_operation_has_edges_and_a_bound_or_a_reason() -> None:
    for name, kind in OPERATIONS.items():
        assert kind.bound.reason or kind.bound.ns < float("inf"), name
        if name in BOUNDED:
            assert len(calls(name, 5)) == 5, name


def test_a_bound_that_is_too_low_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement sees calls that take longer than their bound."""
    monkeypatch.setattr("tests.sandbox.operations.test_bounds.MEASURE", MEASURE.replace("for name in", LOWERED))
    assert over_bound(["ImageFilter.MinFilter"], 20) != []


LOWERED = """from sandbox.operations.operation import Bound
object.__setattr__(OPERATIONS["ImageFilter.MinFilter"], "bound", Bound(0.1))
for name in"""

IN_PROCESS = {
    "result = image.rotate(90, expand=True)": True,
    "result = image.crop((10, 10, 100, 90)).resize((400, 300))": True,
    "result = ImageEnhance.Contrast(image).enhance(2)": True,
    "result = image.rotate(30, expand=True, resample=Image.BICUBIC)": True,
    "a = np.array(image)\nresult = cv2.warpAffine(a, np.array([[1.0, 0, 5], [0, 1, 3]]), (200, 200))": True,
    "a = np.array(image)\nresult = cv2.warpAffine(a, np.array([[1.0, 0, 5], [0, 1, 3]]), (200, 200), borderMode=cv2.BORDER_REFLECT)": False,  # noqa: E501
    "result = image.filter(ImageFilter.MedianFilter(3))": False,
    "result = image.resize((1, 10000000)).resize((50, 50))": False,
    "result = image.resize((1, 300)).resize((50, 50))": False,
    "result = Image.fromarray(cv2.fastNlMeansDenoisingColored(np.array(image), None, 3, 3, 7, 21))": False,
}


@pytest.mark.parametrize("code", IN_PROCESS)
def test_which_programs_run_in_the_trainer(code: str) -> None:
    program = lift(code, ((640, 480),))
    assert isinstance(program, ToolProgram), program
    assert fits_in_process(program, (640, 480), Limits()) == IN_PROCESS[code]


def test_a_large_image_leaves_the_trainer() -> None:
    program = lift("result = ImageOps.invert(image)", ((5000, 4000),))
    assert isinstance(program, ToolProgram)
    assert not fits_in_process(program, (5000, 4000), Limits())
    assert CALL_NS * len(program.operations) < 250e6


def test_a_thin_image_between_two_steps_of_pillow_counts() -> None:
    """From 400 x 60,000 to 60,000 x 400 pixels, Pillow makes an image of 60,000 x 60,000 on the way."""
    program = lift("result = image.resize((60000, 400))", ((400, 60000),))
    assert isinstance(program, ToolProgram)
    assert not fits_in_process(program, (400, 60000), Limits())
