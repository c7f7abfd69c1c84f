"""Tool workers: they give the same results as this process, and any program can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox import Limits, Observation, ToolExecutor, ToolProgram, ToolRequest
from sandbox.images import Budget
from sandbox.lanes.lane import Lifted
from sandbox.lanes.pillow import PillowLane
from sandbox.lanes.tool_worker import ProofTime, ToolWorkerLane
from sandbox.lift.reader import lift
from sandbox.memory import peak_memory_bytes
from sandbox.operations.program import print_program
from tests.sandbox.attack_site import descendants
from tests.sandbox.machine import need, noise
from tests.sandbox.strategies import images, programs

IMAGE = noise(40, 30)
ENDLESS = (
    "a = np.array(image.resize((1, 1)))\nM = np.array([[1.0, 0, 7.5], [0, 1, -3]])\n"
    "result = cv2.warpAffine(a, M, (9, 9), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)"
)
SHIFTED = (
    "a = np.array(image)\nM = np.array([[1.0, 0, @], [0, 1, 0]])\n"
    "result = cv2.warpAffine(a, M, (99, 99), borderMode=cv2.BORDER_REFLECT)"
)
#: Programs that once held the trainer for seconds or forever, or took gigabytes there: (code, size of the image).
HELD = {
    "a warp that never ends": (ENDLESS, (40, 30)),
    "a shift of ten million": (SHIFTED.replace("@", "1e7"), (40, 30)),
    "a shift of a billion": (SHIFTED.replace("@", "1e9"), (40, 30)),
    "a mode of twelve megapixels": ("result = image.filter(ImageFilter.ModeFilter(1))", (4000, 3000)),
    "a thin image in between": ("result = image.resize((1, 10000000)).resize((50, 50))", (40, 30)),
    "a thin array in between": (
        "a = cv2.resize(np.array(image), (10_000_000, 1), interpolation=cv2.INTER_LANCZOS4)\n"
        "result = cv2.resize(a, (40, 30))",
        (40, 30),
    ),
    "thin denoising": ("result = cv2.fastNlMeansDenoisingColored(np.array(image), None, 3, 3, 7, 21)", (1, 20000)),
}


@pytest.fixture(scope="module")
def lane() -> Iterator[ToolWorkerLane]:
    made = ToolWorkerLane(2, Limits(wall_s=10))
    yield made
    made.close()


def lifted(code: str, image: Image.Image = IMAGE) -> Lifted:
    program = lift(code, (image.size,))
    assert isinstance(program, ToolProgram), program
    return Lifted(ToolRequest(code, [image]), program)


@pytest.mark.parametrize("name", HELD)
def test_nothing_holds_the_trainer(name: str) -> None:
    code, size = HELD[name]
    request = ToolRequest(code, [noise(*size)])
    with ToolExecutor(workers=1, limits=Limits(wall_s=1)) as executor:
        executor.execute([ToolRequest("class Warm: pass\nresult = image", [IMAGE])])
        executor._tools.run([lifted("result = image.rotate(180)")])
        memory, own = peak_memory_bytes(), time.process_time()
        started = time.perf_counter()
        (observation,) = executor.execute([request])
        assert time.perf_counter() - started < 20  # a second, plus the delay of a busy machine
        assert time.process_time() - own < 0.5
        assert peak_memory_bytes() - memory < 200 * 2**20
        assert observation.lane != "pillow" or "too thin" in observation.text
        assert observation.status in ("ok", "timeout", "error"), observation
        (after,) = executor.execute([ToolRequest("result = image.filter(ImageFilter.MedianFilter(3))", [IMAGE])])
    assert (after.status, after.lane) == ("ok", "tool_worker"), after


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(program=programs(), image=images())
def test_a_program_is_the_same_in_a_tool_worker(program: ToolProgram, image: Image.Image, lane: ToolWorkerLane) -> None:
    code = print_program(program)
    read = lift(code, (image.size, (9, 7)))
    if not isinstance(read, ToolProgram) or not read.has_result:
        return
    call = Lifted(ToolRequest(code, [image, noise(9, 7)]), read)
    (here,), (there,) = PillowLane().run([call]), lane.run([call])
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert key(here) == key(there)


def key(observation: Observation) -> tuple[object, ...]:
    image = observation.image
    shown = image and (image.size, image.tobytes())
    return observation.status, shown, observation.text, observation.tools, observation.orientation, observation.frame


def test_a_tool_worker_that_dies_is_a_crash_and_the_next_call_is_served() -> None:
    need()
    with ToolExecutor(workers=1, limits=Limits(wall_s=30)) as executor:
        executor._tools.run([lifted("result = image.rotate(180)")])
        seen: list[Observation] = []
        thread = threading.Thread(target=lambda: seen.extend(executor.execute([ToolRequest(ENDLESS, [IMAGE])])))
        thread.start()
        time.sleep(0.3)
        zygote = executor._tools._pool._workers._process.pid
        os.kill(max(descendants(zygote)), signal.SIGKILL)
        thread.join(10)
        assert [(observation.status, observation.lane) for observation in seen] == [("crash", "tool_worker")]
        (after,) = executor.execute([ToolRequest("result = image.filter(ImageFilter.MedianFilter(3))", [IMAGE])])
        assert (after.status, after.lane) == ("ok", "tool_worker")


@pytest.mark.parametrize("code", [ENDLESS, "while True: pass"], ids=["tool worker", "confined"])
def test_close_ends_what_runs(code: str) -> None:
    need()
    executor = ToolExecutor(workers=1, limits=Limits(wall_s=60))
    executor._tools.run([lifted("result = image.rotate(180)")])
    seen: list[Observation] = []
    thread = threading.Thread(target=lambda: seen.extend(executor.execute([ToolRequest(code, [IMAGE])] * 3)))
    thread.start()
    time.sleep(1)
    started = time.perf_counter()
    executor.close()
    thread.join(40)
    assert time.perf_counter() - started < 20  # 0.03 s if the machine is not busy; the call would take 60
    assert [observation.status for observation in seen] == ["rejected"] * 3
    assert executor.execute([ToolRequest(ENDLESS, [IMAGE])])[0].status == "rejected"


INTERRUPTED = """
import sys, time
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(workers=1, limits=Limits(wall_s=60))
image = Image.new("RGB", (40, 30))
executor.execute([ToolRequest("result = image.filter(ImageFilter.MedianFilter(3))", [image])])
print("ready", flush=True)
try:
    executor.execute([ToolRequest({code!r}, [image])])
except KeyboardInterrupt:
    executor.close()
    print("ended", flush=True)
"""


def test_interrupt_ends_what_runs() -> None:
    need()
    script = INTERRUPTED.format(root=str(Path(__file__).parents[3]), code=ENDLESS)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    assert process.stdout.readline() == "ended\n"
    assert time.perf_counter() - started < 20  # the call would take 60
    process.stdout.close()
    assert process.wait(20) == 0


def test_without_confinement_a_tool_worker_is_a_plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    lane = ToolWorkerLane(1, Limits(wall_s=20))
    try:
        (seen,) = lane.run([lifted("result = image.rotate(90, expand=True)")])
        assert seen is not None
        assert (seen.status, seen.tools, seen.orientation) == ("ok", ("rotate_90",), "rotate_90")
        assert seen.image is not None
        assert seen.image.tobytes() == IMAGE.rotate(90, expand=True).tobytes()
    finally:
        lane.close()


@pytest.mark.parametrize("code", ["result = image.rotate(90)", "class A: pass\nresult = image.rotate(90)"])
def test_results_beyond_the_budget_of_a_batch_are_refused_by_name(code: str) -> None:
    need()
    image = noise(500, 500)
    with ToolExecutor(workers=2, limits=Limits(wall_s=20, batch_mb=4)) as executor:
        for _ in range(2):
            seen = executor.execute([ToolRequest(code, [image])] * 6)
            assert [observation.status for observation in seen].count("ok") == 4
            (text, *_) = [observation.text for observation in seen if observation.status == "error"]
            assert "4 MB that `batch_mb` allows" in text
            assert all(observation.image is None for observation in seen if observation.status == "error")


def test_claims_are_dropped_when_the_time_of_their_batch_is_spent(lane: ToolWorkerLane) -> None:
    proofs, n_run = ProofTime(0.01), []

    def busy() -> None:
        n_run.append(1)
        started = time.thread_time()
        while time.thread_time() - started < 0.05:
            pass

    proofs.run_here(busy, call_s=1.0)  # within twice the time of its call
    proofs.run_here(busy, call_s=0.0)
    proofs.run_here(busy, call_s=1.0)
    assert len(n_run) == 2
    call = lifted("result = image.rotate(180)")
    assert proofs.run(lane, call.program, IMAGE, call_s=5.0) is None
    assert ProofTime(5.0).run(lane, call.program, IMAGE, call_s=5.0) is not None


def test_a_budget_counts_four_bytes_a_pixel() -> None:
    budget = Budget(Limits(batch_mb=1))
    assert budget.refuse((512, 256)) is None
    assert budget.refuse((512, 256)) is None
    assert "512x256" in (budget.refuse((512, 256)) or "")
