"""Setup shared by the tests of workers that outlive a call."""

from __future__ import annotations

from sandbox import Limits
from sandbox.lanes.confined import ConfinedLane
from tests.sandbox.machine import need, noise

IMAGE = noise(24, 16)
LIMITS = Limits(wall_s=10, memory_mb=128)


def kept(limits: Limits = LIMITS) -> ConfinedLane:
    need()
    return ConfinedLane(1, limits, "syscall", "episode")
