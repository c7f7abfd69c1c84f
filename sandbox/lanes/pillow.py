"""Runs lifted programs in process, by the library calls of the table: no text of a policy is ever evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageFile

from sandbox.effects.credit import UNKNOWN, Credit, Effects
from sandbox.effects.pixels import same_pixels
from sandbox.images import as_rgb
from sandbox.lanes.lane import Lifted
from sandbox.messages import NO_RESULT
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from sandbox.threads import spread
from sandbox.types import Observation, Status

#: Pixels of a batch from which on threads pay.
_MANY_PIXELS = 1 << 20


class PillowLane:
    """Runs programs by Pillow, OpenCV and NumPy, on all cores if the images are large."""

    name = "pillow"

    def run(self, calls: Sequence[Lifted]) -> list[Observation | None]:
        """The observation of each program, in order; None if it fails: its code must then run and explain."""
        return spread(_guarded, calls) if _is_worth_threads(calls) else list(map(_guarded, calls))

    def close(self) -> None:
        """There is nothing to end."""

    def disown(self) -> None:
        """There is nothing to let go of."""


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
    """Whether the images are many pixels, all of them in memory: two threads must not read one file."""
    images = [call.image for call in calls if call.program.has_result]
    if len(images) < 2 or any(isinstance(image, ImageFile.ImageFile) for image in images):
        return False
    return sum(image.width * image.height for image in images) >= _MANY_PIXELS


@dataclass(frozen=True)
class Outcome:
    """The result of a program, and what it earns, seen from the image that it starts from."""

    image: Image.Image
    effects: Effects = UNKNOWN


def run_operation(operation: Operation, image: Image.Image) -> Image.Image:
    """The library's call; raises what it raises."""
    return OPERATIONS[operation.name].call(image, operation.values)


def run_program(
    program: ToolProgram,
    image: Image.Image,
    finish: Callable[[Operation, Image.Image], Image.Image] = run_operation,
) -> Outcome | None:
    """Run a program on an RGB image; None if an operation fails, which the checks of its values should prevent.

    Args:
        program: What to run.
        image: What it starts from.
        finish: Runs the last operation.
    """
    source, credit = image, Credit(image.size)
    for operation in program.operations:
        before, is_last = image, operation is program.operations[-1]
        try:
            image = (finish if is_last else run_operation)(operation, image)
        except Exception:  # noqa: BLE001 - the confined lane has the message, whatever the library raises
            return None
        credit.add(operation, image.size, lambda one=before, other=image: not same_pixels(one, other))  # type: ignore[misc]
    effects = credit.effects(
        lambda: same_pixels(image, source), lambda: same_pixels(image, without_colour(program, source))
    )
    return Outcome(image.copy() if image is source else image, effects)


def observed(program: ToolProgram, outcome: Outcome, lane: str) -> Observation:
    """What a policy sees of a program that made an image."""
    is_chosen, image, effects = program.source is None, outcome.image, outcome.effects
    return Observation(
        "ok",
        image=image if image.mode == "RGB" else image.convert("RGB"),
        text=program.text,
        lane=lane,
        level="lifted",
        tools=effects.tools,
        orientation=effects.orientation if is_chosen else None,
        frame=effects.frame if is_chosen else None,
    )


def without_colour(program: ToolProgram, image: Image.Image) -> Image.Image | None:
    """What the program gives without its colour operations; None if it then fails."""
    try:
        for operation in program.operations:
            if not OPERATIONS[operation.name].is_colour:
                image = OPERATIONS[operation.name].call(image, operation.values)
    except Exception:  # noqa: BLE001 - an operation that needs what a colour operation made, a gray image say
        return None
    return image
