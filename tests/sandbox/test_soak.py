"""Mutated replies by the thousand, and a long run with crashes and timeouts: nothing is lost, nothing grows."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest

from sandbox import Limits, ToolExecutor, ToolRequest
from sandbox.types import Fresh
from tests.sandbox.attack_site import descendants
from tests.sandbox.machine import lane_of, need, noise

IMAGE = noise(24, 16)
TURNED = IMAGE.rotate(90, expand=True).tobytes()
CHECK = ToolRequest("result = image.rotate(90, expand=True)", [IMAGE])


FORGER = """
import os, random, gc
g = random.Random({seed})
nonce = [o.nonce for o in gc.get_objects() if type(o).__name__ == 'Request'][-1]
from sandbox.confined import wire
good = wire.REPLY.pack(wire.REPLY_MAGIC, nonce, g.choice([0, 1, 2, 3]), g.choice([0, 1, 24, 1 << 31]), g.choice([1, 16, 1 << 31]), 4, 0) + b'text'
for _ in range(g.choice([0, 1, 1, 2, 50])):
    data = bytearray(good)
    for _ in range(g.randint(0, 3)):
        data[g.randrange(len(data))] = g.randrange(256)
    os.write(3, bytes(data[:g.choice([len(data), g.randrange(len(data))])]) or b'x')
if g.random() < 0.3: os._exit(g.randrange(9))
if g.random() < 0.1: os.close(3)
result = image
"""  # noqa: E501


def forge(n_calls: int, fresh: str) -> None:
    lane = lane_of("syscall", Limits(wall_s=0.3, memory_mb=128, result_megapixels=0.25), fresh=fresh)
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for start in range(0, n_calls, 50):
            requests = [
                ToolRequest(FORGER.format(seed=seed), [IMAGE], episode=str(seed)) for seed in range(start, start + 50)
            ]
            for observation in lane.run(requests):
                assert observation.status in ("ok", "error", "crash", "timeout")
                if observation.image is not None:
                    assert observation.image.width * observation.image.height <= 250_000
            (check,) = lane.run([CHECK])
            assert check.image is not None
            assert check.image.tobytes() == TURNED
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4 * 70
    finally:
        lane.close()


@pytest.mark.parametrize("fresh", ["call", "episode"])
def test_workers_that_forge_their_replies(fresh: str) -> None:
    forge(200, fresh)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fresh", ["call", "episode"])
def test_many_workers_that_forge_their_replies(fresh: str) -> None:
    forge(50_000, fresh)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def soak(n_calls: int, fresh: Fresh = "call") -> dict[str, float]:
    """Run a mix with 2.5% crashes and 2.5% timeouts; return memory and descriptors after two fifths and at the end.

    It also returns the number of processes at the end. Every thousand calls belong to twenty new episodes, which matter
    only with `fresh="episode"`.
    """
    generator = random.Random(1)
    figures: dict[str, float] = {}
    limits = Limits(wall_s=0.1, memory_mb=256)
    with ToolExecutor(lane="confined", workers=2, limits=limits, fresh=fresh) as executor:
        for start in range(0, n_calls, 100):
            kinds = [generator.choices(["ok", "crash", "timeout"], [95, 2.5, 2.5])[0] for _ in range(100)]
            code = {"ok": CHECK.code, "crash": "import os\nos._exit(1)", "timeout": "while True: pass"}
            calls = [(code[kind], f"{start // 1000} {place % 20}") for place, kind in enumerate(kinds)]
            observations = executor.execute([ToolRequest(text, [IMAGE], episode=name) for text, name in calls])
            for kind, observation in zip(kinds, observations, strict=True):
                if kind == "ok" and observation.status == "ok":
                    assert observation.image is not None
                    assert observation.image.tobytes() == TURNED
                # On a busy machine any call may miss its short deadline; it must never get another call's observation.
                assert observation.status in (kind, "timeout")
            if start == 100 * (n_calls // 250):
                figures |= {"early MB": resident_mb(), "early descriptors": len(list(Path("/proc/self/fd").iterdir()))}
        figures |= {"late MB": resident_mb(), "late descriptors": len(list(Path("/proc/self/fd").iterdir()))}
        figures["processes"] = len(descendants(os.getpid()))
    return figures


def check_flat(figures: dict[str, float], most_processes: int = 10) -> None:
    assert figures["late MB"] < figures["early MB"] + 16, figures
    assert figures["late descriptors"] <= figures["early descriptors"] + max(8, most_processes // 4), figures
    assert figures["processes"] <= most_processes, figures


def test_short_soak() -> None:
    need()
    check_flat(soak(500))


@pytest.mark.slow
@pytest.mark.timeout(48 * 3600)
@pytest.mark.parametrize("fresh", ["call", "episode"])
@pytest.mark.parametrize("n_calls", [10_000, 1_000_000])
def test_long_soak(n_calls: int, fresh: Fresh) -> None:
    need()
    figures = soak(n_calls, fresh)
    print(figures)
    check_flat(figures, most_processes=10 if fresh == "call" else 80)  # 64 episodes are kept
