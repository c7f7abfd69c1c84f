"""The result of a program, and its credit."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sandbox.effects.outcome import run_operation, run_program, without_color
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
TURN, MIRROR, INVERT = (
    Operation("orient", ("rotate_90",)),
    Operation("orient", ("flip_horizontal",)),
    Operation("ImageOps.invert"),
)


def test_a_program_without_operations_gives_another_object_and_earns_nothing() -> None:
    outcome = run_program(ToolProgram(), IMAGE)
    assert outcome is not None
    assert outcome.image is not IMAGE
    assert outcome.image.tobytes() == IMAGE.tobytes()
    assert outcome.effects.tools == ()


def test_an_operation_that_fails_gives_nothing() -> None:
    assert run_program(ToolProgram((Operation("Image.crop", ((5, 0, 1, 1),)), TURN)), IMAGE) is None
    assert run_program(ToolProgram((TURN, Operation("Image.crop", ("x",)))), IMAGE) is None


def test_only_the_last_operation_is_finished_elsewhere() -> None:
    finished: list[Operation] = []

    def finish(operation: Operation, image: Image.Image) -> Image.Image:
        finished.append(operation)
        return run_operation(operation, image)

    outcome = run_program(ToolProgram((TURN, MIRROR, INVERT)), IMAGE, finish)
    assert finished == [INVERT]
    assert outcome == run_program(ToolProgram((TURN, MIRROR, INVERT)), IMAGE)


def test_without_color_pixels_are_moved_only() -> None:
    moved = without_color(ToolProgram((INVERT, TURN, INVERT)), IMAGE)
    assert moved is not None
    assert moved.tobytes() == IMAGE.transpose(Image.Transpose.ROTATE_90).tobytes()
    assert without_color(ToolProgram((Operation("Image.crop", ("x",)),)), IMAGE) is None
