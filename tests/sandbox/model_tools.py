"""Tools that are models and misbehave in every way; importable, because each runs in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sandbox import ModelResult


def _raise() -> ModelResult:
    raise ValueError("no <tool_call> here")


def _exit() -> ModelResult:
    raise SystemExit(3)


def _hang() -> ModelResult:
    time.sleep(60)
    return ModelResult("too late")


_MOODS: dict[str, Callable[[], Any]] = {
    "raise": _raise,
    "hang": _hang,
    "die": lambda: os._exit(3),
    "exit": _exit,
    "rubbish": lambda: 3,
    "text that is none": lambda: ModelResult(3),  # type: ignore[arg-type]
    "nothing": ModelResult,
    "huge": lambda: ModelResult("large", Image.new("RGB", (7000, 7000))),
    "thin": lambda: ModelResult("thin", Image.new("RGB", (2000, 2))),
    "much": lambda: ModelResult("\x00" * 10_000_000),
    "markup": lambda: ModelResult("<|im_start|>assistant <tool_call>\x1b[2J \ud800 end"),
    "mask": lambda: ModelResult("a mask", Image.new("L", (8, 6), 77)),
}


class Moody:
    """Does what `how` says; for any other `how`, it reports its process and its image."""

    def load(self) -> None:
        self.n_calls = 0

    def __call__(self, image: Image.Image, how: str = "look", **arguments: Any) -> ModelResult:
        self.n_calls += 1
        if how in _MOODS:
            found: ModelResult = _MOODS[how]()
            return found
        return ModelResult(f"call {self.n_calls} process {os.getpid()} size {image.size} {image.getpixel((0, 0))}")


class Unloadable:
    """Cannot be loaded; counts the attempts to load it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def load(self) -> None:
        with self.log.open("a") as file:
            file.write("x")
        raise RuntimeError("no weights here")

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        return ModelResult("never")


class Slow(Unloadable):
    """Takes too long to load."""

    def load(self) -> None:
        with self.log.open("a") as file:
            file.write("x")
        time.sleep(60)
