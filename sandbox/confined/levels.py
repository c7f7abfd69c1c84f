"""The named levels of confinement, weakest first, and the layers that each level requires."""

from __future__ import annotations

from typing import Literal

Level = Literal["process", "syscall", "confined", "full"]

#: Weakest first.
LEVELS: tuple[Level, ...] = ("process", "syscall", "confined", "full")

#: The layers that each level adds to the one before it.
LAYERS: dict[Level, tuple[str, ...]] = {
    "process": ("rlimits",),
    "syscall": ("no_new_privs", "seccomp"),
    "confined": ("landlock", "uid"),
    "full": ("namespaces",),
}


def level_of(layers: dict[str, str]) -> tuple[Level | None, list[str]]:
    """The highest level that the layers give, and the layers that the next level lacks.

    Args:
        layers: Layer -> "" if it holds, else the reason why not.
    """
    reached: Level | None = None
    for level in LEVELS:
        missing = [f"{layer} ({layers.get(layer, 'not tried')})" for layer in LAYERS[level] if layers.get(layer, "-")]
        if missing:
            return reached, missing
        reached = level
    return reached, []
