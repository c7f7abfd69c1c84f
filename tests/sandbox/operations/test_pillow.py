"""Pillow's operations give the same bits as the calls that they are written as."""

from __future__ import annotations

import pytest
from PIL import Image

from sandbox.operations.pillow import PILLOW_OPERATIONS
from tests.sandbox.machine import noise
from tests.sandbox.operations.as_written import differing


@pytest.mark.parametrize("name", PILLOW_OPERATIONS)
def test_an_operation_is_the_call_that_it_is_written_as(name: str) -> None:
    assert differing(name, 12) == []


@pytest.mark.parametrize("name", ["ImageDraw.rectangle", "ImageDraw.ellipse"])
def test_a_drawing_leaves_its_image_as_it_was(name: str) -> None:
    image = noise(20, 12)
    before = image.tobytes()
    drawn = PILLOW_OPERATIONS[name].call(image, ((2, 2, 15, 9), "red", None, 1))
    assert image.tobytes() == before
    assert drawn.getpixel((8, 5)) == (255, 0, 0)


def test_an_image_is_pasted_on_a_canvas_of_its_mode() -> None:
    pasted = PILLOW_OPERATIONS["Image.paste"].call(Image.new("L", (2, 2), 9), ((4, 3), 5, (1, 0)))
    assert (pasted.mode, pasted.size) == ("L", (4, 3))
    assert [*pasted.tobytes()] == [5, 9, 9, 5, 5, 9, 9, 5, 5, 5, 5, 5]
