"""Facts that a row of the table gives about its call before it runs."""

from __future__ import annotations

import pytest
from PIL import Image

from sandbox.geometry import Affine
from sandbox.operations.operation import MOVE, Kind, State, called
from sandbox.operations.parameters import Parameter, is_integer
from sandbox.operations.table import OPERATIONS
from tests.sandbox.operations.edges import calls

COLORS = [name for name, kind in OPERATIONS.items() if kind.is_color]


@pytest.mark.parametrize("name", COLORS)
def test_a_change_of_values_keeps_the_size(name: str) -> None:
    for values, image in calls(name, 3):
        assert OPERATIONS[name].after(values, State(image.size, image.mode)).size == image.size
        assert OPERATIONS[name].frame(values, image.size) == Affine()


def test_operations_that_move_pixels_are_no_changes_of_values() -> None:
    assert not {"orient", "Image.rotate", "Image.crop", "Image.resize", "cv2.warpAffine", "ImageOps.pad"} & {*COLORS}
    assert {"Image.convert", "ImageOps.invert", "cv2.GaussianBlur", "ImageDraw.line"} <= {*COLORS}


def test_a_call_gets_its_values_by_the_names_of_its_parameters() -> None:
    def shifted(image: Image.Image, *, down: int, right: int) -> Image.Image:
        return Image.new("L", (right, down))

    kind = called("shift", shifted, "{x}", *(Parameter(name, is_integer) for name in ("right", "down")), bound=MOVE)
    assert kind.call(Image.new("L", (1, 1)), (5, 2)).size == (5, 2)
    assert (kind.tool, kind.bound, kind.modes) == ("shift", MOVE, ("RGB", "L"))
    with pytest.raises(ValueError, match="zip"):
        kind.call(Image.new("L", (1, 1)), (5,))
    assert Kind("t", kind.call, "{x}").is_color
