"""Runs programs by the library calls of the table, in any process, and finds the effects that they earn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from sandbox.effects.credit import UNKNOWN, Credit, Effects
from sandbox.effects.pixels import same_pixels
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS


@dataclass(frozen=True)
class Outcome:
    """The result of a program, and the effects that it earns relative to its first image."""

    image: Image.Image
    effects: Effects = UNKNOWN


def run_operation(operation: Operation, image: Image.Image) -> Image.Image:
    """Run the library's call; raises what that raises."""
    return OPERATIONS[operation.name].call(image, operation.values)


def run_program(
    program: ToolProgram,
    image: Image.Image,
    finish: Callable[[Operation, Image.Image], Image.Image] = run_operation,
) -> Outcome | None:
    """Run a program on an RGB image; None if an operation fails, which the checks of its values should prevent.

    Args:
        program: The program to run.
        image: The image to start from.
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
        lambda: same_pixels(image, source), lambda: same_pixels(image, without_color(program, source))
    )
    return Outcome(image.copy() if image is source else image, effects)


def without_color(program: ToolProgram, image: Image.Image) -> Image.Image | None:
    """Run the program without its color operations; None if it then fails."""
    try:
        for operation in program.operations:
            if not OPERATIONS[operation.name].is_color:
                image = OPERATIONS[operation.name].call(image, operation.values)
    except Exception:  # noqa: BLE001 - an operation may need the output of a color operation, such as gray
        return None
    return image
