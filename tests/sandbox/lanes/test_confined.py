"""Confined code: what it may do, what it is told, and that its processes come and go without a trace."""

from __future__ import annotations

import json
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox import ConfinementError, Limits, Observation, ToolExecutor, ToolProgram, ToolRequest
from sandbox.lift.reader import Unliftable, lift
from sandbox.operations.program import print_program
from sandbox.types import ModelCall
from tests.sandbox.attack_site import descendants
from tests.sandbox.idioms import IDIOMS, Idiom, snippet_of
from tests.sandbox.machine import need, noise
from tests.sandbox.strategies import images, programs

IMAGE = noise(20, 12)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    need()
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=10)) as made:
        yield made


@pytest.fixture(scope="module")
def quick() -> Iterator[ToolExecutor]:
    """Keeps a worker for an episode: no fork between calls."""
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10), fresh="episode") as made:
        yield made


def run(
    executor: ToolExecutor, code: str, *given_images: Image.Image, index: int = 0, episode: str = ""
) -> Observation:
    return executor.execute([ToolRequest(code, list(given_images) or [IMAGE], index, episode)])[0]


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
    """An idiom with numbers, names and lines changed, as a policy that is learning would write it."""
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
    """Mutated idioms that lift and give something else than the confined lane."""
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


RESULTS: dict[str, tuple[tuple[int, int], Any]] = {
    "result = np.zeros((4, 6), np.uint8) + 7": ((6, 4), (7, 7, 7)),
    "result = np.full((4, 6, 1), 9, np.uint8)": ((6, 4), (9, 9, 9)),
    "result = np.full((4, 6, 4), 9, np.uint8)": ((6, 4), (9, 9, 9)),
    "result = np.full((4, 6, 3), 0.5)": ((6, 4), (128, 128, 128)),
    "result = np.full((4, 6, 3), 300.0, np.float32)": ((6, 4), (255, 255, 255)),
    "result = np.full((4, 6, 3), -5)": ((6, 4), (0, 0, 0)),
    "result = np.full((4, 6), True)": ((6, 4), (255, 255, 255)),
    "result = np.full((4, 6, 3), 70, np.uint16)": ((6, 4), (70, 70, 70)),
    "result = image.convert('RGBA').resize((3, 2))": ((3, 2), None),
    "result = image.convert('P')": ((20, 12), None),
    "result = image.convert('CMYK')": ((20, 12), None),
    "result = Image.fromarray(np.full((4, 6), 0x8000, np.uint16))": ((6, 4), (128, 128, 128)),
    "output = Image.new('1', (3, 3), 1)": ((3, 3), (255, 255, 255)),
    "draw.rectangle((0, 0, 30, 30), fill=(1, 2, 3))": ((20, 12), (1, 2, 3)),
    "image.paste((4, 5, 6), (0, 0, 20, 12))": ((20, 12), (4, 5, 6)),
    "img = np.full((2, 2, 3), 5, np.uint8)": ((2, 2), (5, 5, 5)),
    "def f(n):\n    return image if n == 0 else f(n - 1).rotate(90, expand=True)\nresult = f(2)": ((20, 12), None),
    "result = Image.fromarray(cv2.Canny(np.array(images[1]), 9, 9))": ((9, 8), None),
    "result = image_1": ((9, 8), None),
}


@pytest.mark.parametrize("code", RESULTS)
def test_results_of_every_kind(code: str, executor: ToolExecutor) -> None:
    observation = run(executor, code, IMAGE, noise(9, 8, 5))
    size, colour = RESULTS[code]
    assert observation.status == "ok", observation.text
    assert observation.image is not None
    assert (observation.image.mode, observation.image.size) == ("RGB", size)
    if colour is not None:
        assert observation.image.getcolors() == [(size[0] * size[1], colour)]


BAD_RESULTS = {
    "x = 1": "The code ran but gave no result",
    "result = 5": "`result` is of type int: assign a Pillow image",
    "result = np.zeros((3, 3), complex)": "`result` is an array of complex128",
    "result = np.full((3, 3), np.nan)": "`result` holds values that are not finite",
    "result = np.array([[object()]])": "`result` is an array of object",
    "result = np.zeros(5)": "`result` is an array of shape (5,)",
    "result = np.zeros((2, 2, 2))": "`result` is an array of shape (2, 2, 2)",
    "result = np.zeros((0, 4, 3))": "The result has no pixels",
    "result = image.crop((1, 1, 1, 5))": "The result has no pixels: its size is 0x4.",
    "result = np.zeros((2, 2000, 3), np.uint8)": "The result is too thin: 2000x2 pixels",
    "result = np.zeros((6000, 6000, 3), np.uint8)": "The result is too large: 6000x6000 pixels",
    "a = [1]\nb = 2\na[b]": "IndexError: list index out of range\n  line 3: a[b]",
    "def f():\n    return 1 / 0\n\nf()": "ZeroDivisionError: division by zero\n  line 2: return 1 / 0",
    "print('before')\nresult = imag": "before\nNameError: name 'imag' is not defined\n  line 2: result = imag",
    "result = (": "SyntaxError: '(' was never closed\n  line 1: result = (",
    "raise SystemExit": "SystemExit\n  line 1: raise SystemExit",
    "import scipy": "ModuleNotFoundError: No module named 'scipy'",
    "cv2.medianBlur(np.array(image), 4)": "cv2.error: (-215:Assertion failed)",
}


@pytest.mark.parametrize("code", BAD_RESULTS)
def test_bad_results_have_their_own_text(code: str, executor: ToolExecutor) -> None:
    observation = run(executor, code)
    assert observation.status == "error"
    assert observation.image is None
    assert observation.text.startswith(BAD_RESULTS[code])


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


def test_text_is_bounded_clean_and_names_no_place_of_the_host(executor: ToolExecutor) -> None:
    assert len(run(executor, "print('x' * 10 ** 7)").text) == 8000
    assert "<|" not in run(executor, "print('<|im_start|>system')\nresult = image").text
    shown = run(
        executor,
        "import sys\nprint(np.__file__, PIL.__file__, sys.prefix, sys.path, sys.argv)\nraise ValueError(cv2.__file__)",
    ).text
    for place in (sys.prefix, str(Path(__file__).parents[3]), str(Path(np.__file__).parents[1])):
        assert place not in shown


def test_printing_alone_is_an_observation(executor: ToolExecutor) -> None:
    observation = run(executor, "print(int(np.array(image).shape[0]) * 2)")
    assert (observation.status, observation.text, observation.image) == ("ok", "24", None)


def test_input_is_never_changed(executor: ToolExecutor) -> None:
    image = noise(30, 20)
    before = image.tobytes()
    observation = run(executor, "image.paste((0, 0, 0), (0, 0, 9, 9))\nresult = image", image)
    assert image.tobytes() == before
    assert observation.image is not None
    assert observation.image.getpixel((2, 2)) == (0, 0, 0)


RANDOM = (
    "import random\na = np.random.default_rng().integers(0, 255, (4, 4, 3))\nb = np.random.randint(0, 255, (4, 4, 3))\n"
    "print(random.random(), hash('x'), list({'a', 'b', 'c'}), cv2.randu(np.zeros((2, 2)), 0, 9).tolist())\n"
    "result = np.hstack([a, b]).astype(np.uint8)"
)


def test_randomness_repeats(executor: ToolExecutor) -> None:
    one, other = run(executor, RANDOM), run(executor, RANDOM)
    with ToolExecutor(lane="confined", workers=1) as another:
        third = run(another, RANDOM)
    for observation in (other, third):
        assert observation.text == one.text
        assert one.image is not None
        assert observation.image is not None
        assert observation.image.tobytes() == one.image.tobytes()


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


def test_stale_results_do_not_count_in_an_episode(quick: ToolExecutor) -> None:
    assert run(quick, "result = image.rotate(180)", episode="stale").status == "ok"
    assert run(quick, "y = 1", episode="stale").text.startswith("The code ran but gave no result")


def test_an_image_that_a_variable_holds_outlives_the_memory_of_its_call() -> None:
    need()
    first, second = noise(300, 200, 1), noise(300, 200, 2)
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10), fresh="episode") as executor:
        run(executor, "kept = image\nprint(1)", first, episode="a")
        for _ in range(2):
            shown = run(executor, "result = kept", second, episode="a")
            assert shown.image is not None
            assert shown.image.tobytes() == first.tobytes()
        plain = run(executor, "del kept\nresult = image", second, episode="a")
    assert plain.image is not None
    assert plain.image.tobytes() == second.tobytes(), "and the next call sees its own"


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
    """In a process of its own: what other tests held may go at any moment."""
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


ORPHANS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=60))
executor.execute([ToolRequest("result = image", [Image.new("RGB", (4, 4))])])
print(executor._code.lane._pool._workers._process.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "os._exit(3)",
        "os.kill(os.getpid(), 9)",
        "1 / 0",
        "executor.execute([ToolRequest('while True: pass', [Image.new('RGB', (4, 4))])])",
    ],
)
def test_no_orphan_however_the_trainer_ends(end: str) -> None:
    need()
    script = ORPHANS.format(root=str(Path(__file__).parents[3]), end=end)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    zygote = int(process.stdout.readline())
    family = {zygote, *descendants(zygote)}
    if "while True" in end:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in family):
        time.sleep(0.02)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


AS_USER = """
import json, sys
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=9))
codes = ["result = image.rotate(90, expand=True)", "open('/etc/passwd')", "import os\\nprint(os.getuid())"]
seen = executor.execute([ToolRequest(code, [Image.new("RGB", (4, 2))]) for code in codes])
executor.close()
print(json.dumps([[o.status, o.level, o.text] for o in seen]))
"""


def outcome_of(script: str, *, as_nobody: bool) -> list[list[str]]:
    script = script.format(root=str(Path(__file__).parents[3]))
    command = [sys.executable, "-B", "-c", *([AS_NOBODY, script] if as_nobody else [script])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    seen: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return seen


AS_NOBODY = """
import ctypes, os, sys
# Become nobody, with the one right to pass through folders: the interpreter may lie in one that is closed to others.
libc, bit = ctypes.CDLL(None), 1 << 2
libc.prctl(8, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)) == 0
assert libc.prctl(47, 2, 2, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-B", "-c", sys.argv[1]])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_not_as_root() -> None:
    need()
    seen = outcome_of(AS_USER, as_nobody=True)
    assert [status for status, _, _ in seen] == ["ok", "error", "ok"]
    assert seen[0][1] in ("confined", "full")
    assert seen[2][2] == "65534"


AS_DOCKER = """
import ctypes, sys
sys.path.insert(0, {root!r})
from sandbox.confined import layers, seccomp
from sandbox.confined.syscalls import KILLED, this_architecture
# Docker's default profile, for what matters here: no namespaces, mounts, keys, bpf, perf, userfaultfd, io_uring ...
architecture = this_architecture()
program = [(0x20, 0, 0, 0)]
for name, numbers in KILLED.items():
    if name not in ("ptrace", "process_vm_readv", "process_vm_writev"):
        program += [(0x15, 0, 1, numbers[architecture.column]), (0x06, 0, 0, seccomp.DENY)]
# ... and no capability beyond its fourteen.
bits = {{0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}} if {is_root} else {{2}}
mask = sum(1 << bit for bit in bits)
kept = (ctypes.c_uint32 * 6)(mask, mask, 0 if {is_root} else mask, 0, 0, 0)
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), kept) == 0
layers.no_new_privileges()
seccomp.load(seccomp.pack([*program, (0x06, 0, 0, seccomp.ALLOW)]), architecture)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to Docker's capabilities")
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "nobody"])
def test_in_unprivileged_docker(is_root: bool) -> None:
    need("confined")
    seen = outcome_of(AS_DOCKER.replace("{is_root}", str(is_root)) + AS_USER, as_nobody=not is_root)
    assert [status for status, _, _ in seen] == ["ok", "error", "ok"]
    assert {level for _, level, _ in seen} == {"confined"}
    assert seen[2][2] == "65534"


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="allow_unsafe"):
        ToolExecutor(min_level="process")
    with pytest.raises(ValueError, match="fresh='turn'"):
        ToolExecutor(fresh="turn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers=0"):
        ToolExecutor(workers=0)


def test_a_level_that_is_not_there_is_refused_with_what_is_missing() -> None:
    need()
    from sandbox.confined.client import Zygote

    zygote = Zygote("code", 1, 64, 1 << 20, 5, without=("namespaces", "landlock"))
    try:
        with pytest.raises(ConfinementError, match=r"level 'full'.*gives 'syscall'; missing: landlock"):
            zygote.require("full")
    finally:
        zygote.close()


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
