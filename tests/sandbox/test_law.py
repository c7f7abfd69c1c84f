"""The law of the lanes: in every lane, code that lifts gives the bytes, status and text of the confined lane."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox import Limits, Observation, ToolExecutor, ToolRequest
from sandbox.lift.reader import Fault, Unliftable, lift
from sandbox.memory import peak_memory_bytes
from sandbox.operations.bounds import fits_in_process
from sandbox.operations.program import ToolProgram, print_program
from tests.sandbox.grammar import snippet
from tests.sandbox.machine import need, noise
from tests.sandbox.operations.edges import program

CORPORA = Path(__file__).parent / "corpora"
SNIPPETS = [part.strip("\n") for part in (CORPORA / "lanes.txt").read_text(encoding="utf-8").split("----\n")]
LIMITS = Limits(wall_s=10)
_BATCHES = itertools.count()


@pytest.fixture(scope="module")
def confined() -> Iterator[ToolExecutor]:
    need()
    with ToolExecutor(lane="confined", workers=2, limits=LIMITS, fresh="episode") as executor:
        yield executor


def breaks(
    codes: Sequence[str], confined: ToolExecutor, size: tuple[int, int], limits: Limits = LIMITS
) -> list[tuple[str, str, str]]:
    """Snippets that lift but differ between a lane and the confined lane: code, and the text of each.

    Snippets that the Pillow lane leaves to the confined lane at run time (NumPy would warn) do not count.
    """
    shown = [noise(*size), noise(size[0] + 3, size[1], 1)]
    batch = next(_BATCHES)  # a name that one snippet rebinds must not exist for another
    requests = [ToolRequest(code, shown, episode=f"{batch} {number}") for number, code in enumerate(codes)]
    expected = confined.execute(requests)
    found = []
    for lane in (ToolExecutor(lane="pillow", limits=limits), ToolExecutor(lane="kornia", device="cpu", limits=limits)):
        with lane:
            given = lane.execute(requests)
        found += [
            (code, f"{one.lane} {one.status}: {one.text}", f"{other.status}: {other.text}")
            for code, one, other in zip(codes, given, expected, strict=True)
            if one.status != "rejected" and _shown(one) != _shown(other)
        ]
    return found


def _shown(observation: Observation) -> tuple[str, str, tuple[int, int] | None, bytes]:
    image = observation.image
    return observation.status, observation.text, image and image.size, image.tobytes() if image else b""


def lifting(codes: Sequence[str], size: tuple[int, int]) -> list[str]:
    sizes = (size, (size[0] + 3, size[1]))
    return [code for code in codes if not isinstance(lift(code, sizes), Unliftable)]


@pytest.mark.parametrize("size", [(17, 12), (12, 17), (1, 1)], ids=str)
def test_snippets_that_were_read_wrongly_once(size: tuple[int, int], confined: ToolExecutor) -> None:
    codes = lifting(SNIPPETS, size)
    assert len(codes) > 30
    assert breaks(codes, confined, size) == []


def test_benign_snippets_lift_and_are_the_same(confined: ToolExecutor) -> None:
    rows = [json.loads(line) for line in (CORPORA / "benign.jsonl").read_text(encoding="utf-8").splitlines()]
    codes = lifting([row["code"] for row in rows], (320, 240))
    assert len(codes) == 34  # as sandbox/README.md says
    assert breaks(codes, confined, (320, 240)) == []


def test_idioms_lift_and_are_the_same(confined: ToolExecutor) -> None:
    """300 snippets as a Qwen-class model writes them; those that do not lift run confined."""
    _, *rows = [json.loads(line) for line in (CORPORA / "idioms.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["code"] for row in rows}) == 300
    codes = lifting([row["code"] for row in rows], (640, 480))
    assert len(codes) == 197  # as sandbox/README.md says
    assert breaks(codes, confined, (640, 480)) == []
    others = [ToolRequest(row["code"], [noise(640, 480)], episode="") for row in rows if row["code"] not in codes]
    failed = [seen.text.splitlines()[0] for seen in confined.execute(others) if seen.status != "ok"]
    assert len(failed) < 12, failed


def check_random(seeds: range, size: tuple[int, int], confined: ToolExecutor) -> None:
    codes = lifting([snippet(random.Random(seed)) for seed in seeds], size)
    faults = [code for code in codes if isinstance(lift(code, (size, (size[0] + 3, size[1]))), Fault)]
    assert len(codes) - len(faults) > len(seeds) // 8
    assert breaks(codes, confined, size) == []


def test_random_snippets(confined: ToolExecutor) -> None:
    check_random(range(250), (17, 12), confined)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (64, 64), (301, 203)], ids=str)
def test_many_random_snippets(size: tuple[int, int], confined: ToolExecutor) -> None:
    check_random(range(1000, 3000), size, confined)


#: Programs at the edges take long by design: a program that exceeds this deadline in either lane does not count.
EDGE_LIMITS = Limits(wall_s=0.5)


@pytest.fixture(scope="module")
def confined_at_edges() -> Iterator[ToolExecutor]:
    need()
    with ToolExecutor(lane="confined", workers=2, limits=EDGE_LIMITS, fresh="episode") as executor:
        yield executor


def check_edges(seeds: range, size: tuple[int, int], confined: ToolExecutor) -> None:
    codes = lifting([print_program(program(random.Random(seed), size)) for seed in seeds], size)
    assert len(codes) > len(seeds) // 4
    found = breaks(codes, confined, size, EDGE_LIMITS)
    assert [each for each in found if not any("timeout:" in seen for seen in each[1:])] == []


def test_random_programs_at_the_edges(confined_at_edges: ToolExecutor) -> None:
    check_edges(range(30), (17, 12), confined_at_edges)


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 199), (199, 1), (64, 64), (300, 200)], ids=str)
def test_many_random_programs_at_the_edges(size: tuple[int, int], confined_at_edges: ToolExecutor) -> None:
    for start in range(0, 17_000, 250):
        check_edges(range(start, start + 250), size, confined_at_edges)


ENDLESS = {
    "lists in lists": "x = [[[[i for i in range(256)] for j in range(256)] for k in range(256)] for l in range(256)]",
    "lists that double": "x = [0]\n" + "x = x + x\n" * 60,
    "tuples that double": "x = (0,)\n" + "x = (x, x)\n" * 60 + "print(x)",
    "lists of lists": "x = [0] * 8\n" + "x = [x for i in range(200)]\n" * 8 + "print(x)",
    "text that doubles": "x = 'a'\n" + "x = f'{x}{x}{x}'\n" * 60 + "print(x)",
    "text of lists": "s = '" + "a" * 900 + "'\nx = [s] * 8 * 8\nprint(f'" + "{x}" * 200 + "')",
    "a table of lists": "image.point(lambda v: [[[v for i in range(256)] for j in range(256)] for k in range(256)])",
    "loops in loops": "for i in range(256):\n  for j in range(256):\n    for k in range(256):\n      pass",
    "arithmetic that doubles": "x = np.array(image) / 2\n" + "x = x + x\n" * 60 + "image = x.astype(np.uint8)",
    "arithmetic in lists": "x = np.array(image) / 2\nfor j in range(99):\n  y = [x + 1 for i in range(99)]",
    "pictures that double": "x = np.array(image)\n" + "x = cv2.addWeighted(x, 0.5, x, 0.5, 0)\n" * 60 + "result = x",
    "images that double": "x = np.array(image)\n" + "x = np.hstack([x, x])\n" * 60 + "result = x",
    "calls in a loop": "for i in range(256):\n  image = image.rotate(3).filter(ImageFilter.BLUR)\nresult = image",
    "grids in lists": "x = np.ones((32, 32))\nfor i in range(256):\n  y = [x * x + x for j in range(256)]",
    "numbers that grow": "x = 999999999999999\n" + "x = x * x\n" * 60,
    "a power": "x = 10 ** 64 ** 64",
    "a long range": "x = list(range(0, 999999))",
    "a long side": "result = image.resize((100000, 100000))",
    "two long sides": "result = image.resize((100000, 1)).resize((1, 100000)).rotate(45, expand=True)",
    "wide borders": "for i in range(256):\n  image = ImageOps.expand(image, 4096)\nresult = image",
    "formulas in a loop": "x = np.array(image)\nfor i in range(250):\n  y = cv2.add(cv2.add(cv2.add(x, 1), 2), 3)",
    "a long chain": "result = image" + ".rotate(3)" * 200,
    "many statements": "image = image.rotate(3)\n" * 80 + "result = image",
    "slices of slices": "a = np.array(image)\nresult = a" + "[1:]" * 450,
    "many signs": "x = " + "-" * 400 + "1\nresult = image",
    "a long sum": "x = " + "1 + " * 480 + "1\nresult = image",
    "texts that double": "x = 'aaaaaaaa'\n" + "x = x + x\n" * 190,
    "long searches": "result = cv2.fastNlMeansDenoisingColored(np.array(image), None, 10, 10, 7, 31)",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS.keys())
def test_reading_takes_bounded_time_and_memory(code: str) -> None:
    before, seconds = peak_memory_bytes(), []
    for _ in range(3):
        lift.cache_clear()
        started = time.process_time()
        read = lift(code[:2048], ((640, 480),))
        seconds.append(time.process_time() - started)
        assert isinstance(read, Unliftable) or (
            isinstance(read, ToolProgram) and not fits_in_process(read, (640, 480), Limits())
        )
    assert min(seconds) < 0.05
    assert peak_memory_bytes() - before < 100 * 2**20
