"""A program, its canonical snippet, and the sizes that are known before it runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from PIL import Image

from sandbox.effects.outcome import run_program
from sandbox.lift.reader import Unliftable, lift
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram, print_program
from sandbox.operations.table import OPERATIONS
from tests.sandbox.operations.edges import calls
from tests.sandbox.strategies import images, programs


@given(programs(), images())
def test_lifting_the_printed_program_gives_the_program(program: ToolProgram, image: Image.Image) -> None:
    lifted = lift(print_program(program), (image.size, (40, 31)), 0)
    if isinstance(lifted, Unliftable):
        assert min(image.size) < 5, lifted  # an image on the way has no pixels
    else:
        assert lifted == program


@given(programs(), images())
def test_predicted_sizes_are_the_sizes(program: ToolProgram, image: Image.Image) -> None:
    lifted = lift(print_program(program), (image.size, image.size), 0)
    if not isinstance(lifted, ToolProgram):
        return
    steps = [image]
    for operation in lifted.operations:
        steps.append(OPERATIONS[operation.name].call(steps[-1], operation.values))
    assert [step.size for step in steps] == list(lifted.sizes)
    outcome = run_program(lifted, image)
    assert outcome is not None
    assert outcome.image.tobytes() == steps[-1].tobytes()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_at_the_edges_that_lifts_does_not_fail(name: str) -> None:
    """Otherwise a result of a refused size would hide the error of a call before it."""
    for values, image in calls(name, 4 if "Means" in name else 40):
        grayed = [Operation("Image.convert", ("L",))] if image.mode == "L" else []
        code = print_program(ToolProgram((*grayed, Operation(name, values))))
        lifted = lift(code, (image.size,), 0)
        if isinstance(lifted, ToolProgram):
            assert run_program(lifted, image.convert("RGB")) is not None, code


def test_printed_by_hand() -> None:
    program = ToolProgram(
        (
            Operation("orient", ("rotate_90",)),
            Operation("Image.rotate", (30, 3, True, None, None, "white")),
            Operation("ImageEnhance.Contrast", (1.5,)),
            Operation("ImageFilter.SHARPEN"),
            Operation("cv2.GaussianBlur", ((3, 3), 1.5, 0)),
        ),
        text="a\n",
    )
    assert print_program(program).splitlines() == [
        "print('a')",
        "result = image",
        "result = result.transpose(Image.Transpose.ROTATE_90)",
        "result = result.rotate(30, resample=3, expand=True, fillcolor='white')",
        "result = ImageEnhance.Contrast(result).enhance(1.5)",
        "result = result.filter(ImageFilter.SHARPEN)",
        "result = Image.fromarray(cv2.GaussianBlur(np.array(result), (3, 3), sigmaX=1.5))",
    ]
