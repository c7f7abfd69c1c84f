"""Runs lifted programs in process, by the library calls of the table: no text of a policy is ever evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image, ImageFile

from sandbox.geometry import Affine
from sandbox.images import as_rgb
from sandbox.lanes.credit import LiftedEffects, same_pixels
from sandbox.lanes.lane import Lifted
from sandbox.messages import NO_RESULT, describe_error, kind_of
from sandbox.operations.formulas import UncertainError
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
        """The observation of each program, in order; None for one that fails, which its code must explain."""
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
    return observed(call, run_program(program, as_rgb(call.image)), "pillow")


def _is_worth_threads(calls: Sequence[Lifted]) -> bool:
    """Whether the images are many pixels, all of them in memory: two threads must not read one file."""
    images = [call.image for call in calls if call.program.has_result]
    if len(images) < 2 or any(isinstance(image, ImageFile.ImageFile) for image in images):
        return False
    return sum(image.width * image.height for image in images) >= _MANY_PIXELS


@dataclass(frozen=True)
class Outcome:
    """What a program did.

    Attributes:
        image: The result; None where an operation failed, or did not though it was known to.
        tools: Canonical names of the operations whose effect is in the pixels.
        orientation: Net element of the eight; None after a turn by another angle.
        frame: Result pixels to pixels of the source image.
        failure: Type and message of what the library raised.
        line: Line of the operation that raised.
    """

    image: Image.Image | None
    tools: tuple[str, ...] = ()
    orientation: str | None = None
    frame: Affine | None = None
    failure: tuple[str, str] | None = None
    line: int = 0


def run_program(program: ToolProgram, image: Image.Image) -> Outcome:
    """Run a program on an RGB image; a failing operation is an outcome, never an exception."""
    source, effects = image, LiftedEffects()
    for operation in program.operations:
        before = image
        try:
            image = OPERATIONS[operation.name].call(image, operation.values)
        except UncertainError:
            return Outcome(None)
        except Exception as error:  # noqa: BLE001 - whatever the library raises for these values is the policy's to read
            return Outcome(None, failure=(kind_of(error), str(error)), line=operation.line)
        if operation is program.operations[-1] and program.sizes and program.sizes[-1] is None:
            return Outcome(None)
        effects.add(operation, before.size, partial(_differ, before, image))
    tools = effects.net_tools(lambda: _is_colourless(program, source, image), lambda: same_pixels(image, source))
    return Outcome(image.copy() if image is source else image, tools, effects.net_orientation, effects.frame)


def observed(call: Lifted, outcome: Outcome, lane: str) -> Observation | None:
    """What a policy sees of a program that ran; None if it did not do what reading it had promised."""
    program, image = call.program, outcome.image
    if outcome.failure is not None:
        text = describe_error(*outcome.failure, outcome.line, call.request.code)
        return Observation("error", text=program.text + text, lane=lane, level="lifted")
    if image is None:
        return None
    is_chosen = program.source is None
    return Observation(
        "ok",
        image=image if image.mode == "RGB" else image.convert("RGB"),
        text=program.text,
        lane=lane,
        level="lifted",
        tools=outcome.tools,
        orientation=outcome.orientation if is_chosen else None,
        frame=outcome.frame if is_chosen else None,
    )


def _differ(before: Image.Image, after: Image.Image) -> bool:
    return not same_pixels(before, after)


def _is_colourless(program: ToolProgram, source: Image.Image, result: Image.Image) -> bool:
    """Whether the program gives the same without its colour operations; not if it then fails."""
    try:
        for operation in program.operations:
            if not OPERATIONS[operation.name].is_colour:
                source = OPERATIONS[operation.name].call(source, operation.values)
    except Exception:  # noqa: BLE001 - an operation that needs what a colour operation made, a gray image say
        return False
    return same_pixels(result, source)
