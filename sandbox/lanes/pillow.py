"""Runs lifted programs in process, by the library calls of the table: no text of a policy is ever evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from PIL import ImageFile

from sandbox.effects.outcome import Outcome, run_program
from sandbox.images import as_rgb
from sandbox.lanes.lane import Lifted
from sandbox.messages import NO_RESULT
from sandbox.operations.program import ToolProgram
from sandbox.threads import spread
from sandbox.types import Observation, Status

#: Number of pixels of a batch from which threads pay off.
_MANY_PIXELS = 1 << 20


class PillowLane:
    """Runs programs by Pillow, OpenCV and NumPy, on all cores if the images are large."""

    name = "pillow"

    def run(self, calls: Sequence[Lifted]) -> list[Observation | None]:
        """Return the observation of each program, in order; None if it fails: its code must then report the error.

        Equal programs on one image object, as in the rollouts of a group, run once and share the result.
        """
        keys = [(call.program, id(call.image)) for call in calls]
        distinct = dict(zip(keys, calls, strict=True))
        runs = [*distinct.values()]
        seen = spread(_guarded, runs) if _is_worth_threads(runs) else list(map(_guarded, runs))
        seen_of = dict(zip(distinct, seen, strict=True))
        return [seen_of[key] for key in keys]

    def close(self) -> None:
        """Do nothing: the lane has no processes to end."""

    def disown(self) -> None:
        """Do nothing: the lane has no processes to release."""


def _guarded(call: Lifted) -> Observation | None:
    start = time.perf_counter()
    try:
        seen = _observe(call)
    except Exception as error:  # noqa: BLE001 - a broken image file, or no memory: one call must not end the others
        seen = Observation("error", text=f"The request could not be served: {type(error).__name__}: {error}")
    return seen and replace(seen, wall_s=time.perf_counter() - start)


def _observe(call: Lifted) -> Observation | None:
    program = call.program
    if not program.has_result:
        status: Status = "ok" if program.text else "error"
        return Observation(status, text=program.text or NO_RESULT, lane="pillow", level="lifted")
    outcome = run_program(program, as_rgb(call.image))
    return None if outcome is None else observed(program, outcome, "pillow")


def _is_worth_threads(calls: Sequence[Lifted]) -> bool:
    """Whether the images have many pixels, all in memory: two threads must not read one file."""
    images = [call.image for call in calls if call.program.has_result]
    if len(images) < 2 or any(isinstance(image, ImageFile.ImageFile) for image in images):
        return False
    return sum(image.width * image.height for image in images) >= _MANY_PIXELS


def observed(program: ToolProgram, outcome: Outcome, lane: str, wall_s: float = 0.0) -> Observation:
    """Build the observation of a program that made an image."""
    is_chosen, image, effects = program.source is None, outcome.image, outcome.effects
    return Observation(
        "ok",
        image=image if image.mode == "RGB" else image.convert("RGB"),
        text=program.text,
        lane=lane,
        level="lifted",
        wall_s=wall_s,
        tools=effects.tools,
        orientation=effects.orientation if is_chosen else None,
        frame=effects.frame if is_chosen else None,
    )
