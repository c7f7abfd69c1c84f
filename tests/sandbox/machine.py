"""The best level of this machine, so that tests that need more skip with a reason; and lanes of each level."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from sandbox import ConfinementError, Limits
from sandbox.lanes.confined import ConfinedLane

#: Level -> the layers that must be left off to get it on a machine that could give more.
WITHOUT = {"full": (), "confined": ("namespaces",), "syscall": ("namespaces", "landlock")}

LIMITS = Limits(wall_s=1.5, memory_mb=256)


@functools.cache
def best_level() -> str:
    """The highest level here, or why there is none."""
    try:
        lane = ConfinedLane(1, LIMITS, "syscall", "call")
    except (ConfinementError, OSError, AttributeError) as error:
        return f"no confinement here: {error}"
    lane.close()
    return lane.level


def need(level: str = "syscall") -> None:
    """Skip the test if the machine does not give the level."""
    best = best_level()
    if best not in WITHOUT:
        pytest.skip(best)
    if list(WITHOUT).index(best) > list(WITHOUT).index(level):
        pytest.skip(f"this machine gives {best!r} only")


def lane_of(level: str, limits: Limits = LIMITS, workers: int = 2, fresh: str = "call") -> ConfinedLane:
    """A lane of exactly this level."""
    need(level)
    lane = ConfinedLane(workers, limits, "syscall", fresh, without=WITHOUT[level])
    assert lane.level == level
    return lane


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
