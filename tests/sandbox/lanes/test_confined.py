"""Confined code: its rights, its messages, and its processes, which come and go without a trace."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox import ConfinementError, Limits, Observation, ToolExecutor, ToolProgram, ToolRequest
from sandbox.lift.reader import Unliftable, lift
from sandbox.operations.program import print_program
from sandbox.types import ModelCall
from tests.sandbox.asked import IMAGE, run
from tests.sandbox.attack_site import descendants
from tests.sandbox.idioms import IDIOMS, Idiom, snippet_of
from tests.sandbox.machine import need, noise
from tests.sandbox.strategies import images, programs

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_idiom_is_the_same_in_both_lanes(idiom: Idiom, quick: ToolExecutor) -> None:
    shown = [noise(17, 12), noise(15, 19, 1)]
    confined = run(quick, snippet_of(idiom), *shown, episode=idiom.__name__)
    lifted = run(ToolExecutor(lane="pillow"), snippet_of(idiom), *shown)
    assert (confined.status, confined.lane) == ("ok", "confined"), confined
    assert lifted.lane in ("pillow", "tool_worker")
    assert confined.text == lifted.text
    assert confined.image is not None
    assert lifted.image is not None
    assert confined.image.size == lifted.image.size
    assert confined.image.tobytes() == lifted.image.tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(program=programs(), image=images())
def test_program_is_the_same_in_both_lanes(program: ToolProgram, image: Image.Image, quick: ToolExecutor) -> None:
    code = print_program(program)
    if not isinstance(lift(code, (image.size, (9, 7)), 0), ToolProgram):
        return
    shown = [image, noise(9, 7)]
    confined = run(quick, code, *shown, episode="law")
    lifted = run(ToolExecutor(lane="pillow"), code, *shown)
    assert confined.status == lifted.status
    assert confined.text.splitlines()[:1] == lifted.text.splitlines()[:1]
    if lifted.image is not None:
        assert confined.image is not None
        assert confined.image.tobytes() == lifted.image.tobytes()


def mutated(generator: random.Random) -> str:
    """An idiom with changed numbers, names and lines, as a policy in training would write it."""
    lines = snippet_of(generator.choice(IDIOMS)).splitlines()
    if generator.random() < 0.3:
        lines = [*lines[:-1], *snippet_of(generator.choice(IDIOMS)).splitlines()]
    code = "\n".join(lines)
    for _ in range(generator.randint(1, 3)):
        change = generator.choice(SWAPS)
        places = [match.span() for match in re.finditer(change[0], code)]
        if places:
            start, end = generator.choice(places)
            code = code[:start] + generator.choice(change[1]) + code[end:]
    return code


SWAPS = [
    (
        r"(?<![\w.])-?\d+(?:\.\d+)?",
        ["0", "1", "-1", "2", "3", "5", "7", "90", "-90", "180", "45.5", "1e3", "None", "True", "'L'"],
    ),
    (r"\bimage\b", ["img", "images[0]", "image_1", "result", "image.copy()", "arr", "imag"]),
    (
        r"\.[a-z_]+\(",
        [".rotate(", ".crop(", ".resize(", ".convert(", ".copy(", ".transpose(", ".thumbnail(", ".rotat("],
    ),
    (
        r"\bcv2\.\w+|\bnp\.\w+|ImageOps\.\w+",
        ["np.array", "np.fliplr", "cv2.flip", "cv2.blur", "ImageOps.flip", "np.rot90"],
    ),
    (r"\w+=", ["expand=", "resample=", "size=", "box=", "angle=", "fillcolor=", "color="]),
    (r"\n", ["\n\n", "; ", "\nprint(image.size)\n", "\nimage = image.rotate(90)\n", "\nresult.thumbnail((5, 4))\n"]),
    (r", ", [", 3, ", ", ", " * ", ", (", ", *"]),
]


def law_breaks(seeds: range, executor: ToolExecutor) -> list[tuple[str, Observation, Observation]]:
    """Mutated idioms that lift, but whose result differs from that of the confined lane."""
    shown = [noise(17, 12), noise(15, 19, 1)]
    codes = [mutated(random.Random(seed)) for seed in seeds]
    lifting = [code for code in codes if not isinstance(lift(code, tuple(i.size for i in shown), 0), Unliftable)]
    assert len(lifting) > len(codes) // 4
    requests = [ToolRequest(code, shown, episode=str(number % 8)) for number, code in enumerate(lifting)]
    confined, lifted = executor.execute(requests), ToolExecutor(lane="pillow").execute(requests)
    return [
        (code, one, other)
        for code, one, other in zip(lifting, confined, lifted, strict=True)
        if (one.status, one.text) != (other.status, other.text)
        or (one.image is None) != (other.image is None)
        or (one.image is not None and other.image is not None and one.image.tobytes() != other.image.tobytes())
    ]


def test_mutated_idioms_are_the_same_in_both_lanes(executor: ToolExecutor) -> None:
    assert law_breaks(range(250), executor) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_idioms_are_the_same_in_both_lanes(executor: ToolExecutor) -> None:
    assert law_breaks(range(20_000), executor) == []


def test_endings_have_their_own_text(executor: ToolExecutor) -> None:
    assert run(executor, "import os\nos._exit(0)").status == "crash"
    killed = run(executor, "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)")
    assert (killed.status, killed.text) == (
        "crash",
        "The process that ran the code died: it made a forbidden system call.",
    )
    assert "memory that it does not have" in run(executor, "import ctypes\nctypes.string_at(1)").text
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=0.2)) as hasty:
        late = run(hasty, "while True: pass")
    assert (late.status, late.text) == ("timeout", "The code ran longer than 0.2 s and was stopped.")


def test_printing_alone_is_an_observation(executor: ToolExecutor) -> None:
    observation = run(executor, "print(int(np.array(image).shape[0]) * 2)")
    assert (observation.status, observation.text, observation.image) == ("ok", "24", None)


def test_nothing_survives_a_call_and_variables_survive_in_an_episode() -> None:
    need()
    set_x, use_x = "x = image.size[0]\nnp.evil = 1", "print(x, hasattr(np, 'evil'))"
    with ToolExecutor(lane="auto", workers=2, limits=Limits(wall_s=10)) as executor:
        run(executor, set_x, episode="a")
        assert run(executor, use_x, episode="a").text.startswith("NameError: name 'x' is not defined")
    with ToolExecutor(lane="auto", workers=2, limits=Limits(wall_s=10), fresh="episode") as executor:
        assert run(executor, "result = image.rotate(90)", episode="a").lane == "pillow"
        run(executor, set_x, episode="a")
        assert run(executor, use_x, episode="a").text == "20 True"
        assert run(executor, use_x, episode="b").text.startswith("NameError")
        assert run(executor, "result = image.rotate(90)", episode="a").lane == "confined"
        assert run(executor, "result = x", episode="a").status == "error"
        assert run(executor, use_x, episode="a").text.startswith("NameError"), (
            "after an error the worker is not used again"
        )


def test_requests_without_an_episode_share_nothing() -> None:
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10), fresh="episode") as executor:
        run(executor, "x = 1")
        assert run(executor, "print(x)").text.startswith("NameError")


def test_lifted_variables_are_not_lost_in_an_episode() -> None:
    need()
    with ToolExecutor(lane="auto", workers=1, limits=Limits(wall_s=10), fresh="episode") as executor:
        first = run(executor, "half = image.width // 2\nresult = image", episode="a")
        second = run(executor, "result = image.crop((0, 0, half, 5))", episode="a")
    assert first.status == "ok"
    assert second.image is not None, second.text
    assert second.image.size == (10, 5)


def test_order_of_many_with_failures_between() -> None:
    need()
    codes = [
        "result = image.rotate(90, expand=True)",
        "1 / 0",
        "while True: pass",
        "import os\nos._exit(1)",
        "for i in [5]: print(i)",
    ]
    with ToolExecutor(lane="auto", workers=2, limits=Limits(wall_s=0.5)) as executor:
        observations = executor.execute([ToolRequest(code, [IMAGE]) for code in codes * 3])
    assert [o.status for o in observations] == ["ok", "error", "timeout", "crash", "ok"] * 3
    assert [o.text for o in observations[4::5]] == ["5"] * 3


def test_threads_share_an_executor(executor: ToolExecutor) -> None:
    answers: dict[int, list[str]] = {}

    def work(seed: int) -> None:
        answers[seed] = [run(executor, f"for _ in [0]: print({seed})", episode=str(seed)).text for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {seed: [str(seed)] * 5 for seed in range(4)}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_and_processes_are_given_back() -> None:
    """Runs in a process of its own: resources that other tests held may be freed at any moment."""
    need()
    code = f"from {__name__} import check_all_is_given_back; check_all_is_given_back()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_all_is_given_back() -> None:
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=0.3)) as warm:
        run(warm, "result = image")
    before, processes = open_descriptors(), descendants(os.getpid())
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=0.3)) as executor:
        executor.execute([ToolRequest("result = image", [IMAGE])] * 20)
        steady = open_descriptors()
        codes = ["result = image", "1 / 0", "import os\nos._exit(1)", "result = image_0"] * 10 + [
            "while True: pass"
        ] * 2
        executor.execute([ToolRequest(code, [IMAGE]) for code in codes])
        assert open_descriptors() <= steady + 4, "a ready worker whose handle is on its way"
    executor.close()
    assert open_descriptors() == before
    assert descendants(os.getpid()) == processes


def test_results_are_told_as_they_come(executor: ToolExecutor) -> None:
    codes = [
        "import time\ntime.sleep(2)\nresult = image",
        "result = image.rotate(90, expand=True)",  # large: the trainer runs it
        "result = image.crop((0, 0, 9, 7))",
        "1 / 0",
    ]
    large = noise(200, 150)
    requests = [ToolRequest(code, [large]) for code in ("", *codes)]
    requests.append(ToolRequest("1 / 0", [large], model=ModelCall(None, "read_text", {}, 1.0)))  # type: ignore[arg-type]
    told: list[tuple[int, Observation]] = []
    seen = executor.execute(requests, lambda *one: told.append(one))
    order = [index for index, _ in told]
    assert (order[0], order[-1]) == (0, 1), "what takes no worker is first, the slow call last"
    assert sorted(order) == [0, 1, 2, 3, 4], "each once, and none that a model may follow"
    for index, observation in told:
        assert observation == seen[index]
        assert observation.image is seen[index].image
    assert [one.status for one in seen] == ["rejected", "ok", "ok", "ok", "error", "error"]
    for index, one in enumerate(executor.execute(requests)):
        assert (one.status, one.text, one.tools) == (seen[index].status, seen[index].text, seen[index].tools)


def test_a_zygote_that_was_killed_is_started_again() -> None:
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=5)) as executor:
        run(executor, "result = image")
        process = executor._code.lane._pool._workers._process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        assert run(executor, "result = image").status == "ok"


def test_closed_executor_rejects_and_still_lifts() -> None:
    need()
    executor = ToolExecutor(lane="auto", workers=1)
    executor.close()
    executor.close()
    assert run(executor, "class Tool: pass\nresult = image").status == "rejected"
    assert run(executor, "result = image.rotate(90)").status == "ok"


def test_pickled_executor_works() -> None:
    need()
    with (
        ToolExecutor(lane="auto", workers=1, limits=Limits(wall_s=9)) as executor,
        pickle.loads(pickle.dumps(executor)) as copy,
    ):
        assert run(copy, "for i in [1]: print(i)").text == "1"


def _in_child(executor: ToolExecutor, queue: Any) -> None:
    queue.put([run(executor, "for i in [1]: print(i)").text for _ in range(2)])
    executor.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_executor_in_a_child_process(method: str) -> None:
    need()
    context = multiprocessing.get_context(method)
    with ToolExecutor(lane="auto", workers=1, limits=Limits(wall_s=9)) as executor:
        assert run(executor, "for i in [1]: print(i)").text == "1"
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(executor, queue))
        child.start()
        assert queue.get(timeout=60) == ["1", "1"]
        child.join(60)
        assert child.exitcode == 0
        assert run(executor, "for i in [1]: print(i)").text == "1", "the parent's workers are its own"


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="allow_unsafe"):
        ToolExecutor(min_level="process")
    with pytest.raises(ValueError, match="fresh: expected one of call, episode, got 'turn'"):
        ToolExecutor(fresh="turn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        ToolExecutor(workers=0)


def test_auto_lane_without_confinement_rejects_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.lanes import confined as confined_lane

    def refuse(*arguments: object) -> None:
        raise ConfinementError("no seccomp here")

    monkeypatch.setattr(confined_lane, "ConfinedLane", refuse)
    with ToolExecutor(lane="auto") as executor:
        with pytest.warns(RuntimeWarning, match="no seccomp here"):
            observation = run(executor, "class Tool: pass\nresult = image")
        assert observation.status == "rejected"
        assert run(executor, "result = image.rotate(90)").status == "ok"
    with pytest.raises(ConfinementError):
        ToolExecutor(lane="confined")
