"""Calls of Pillow do what Pillow does; every quarter turn is one operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from sandbox.effects.outcome import run_program
from sandbox.lift.pillow_calls import IMAGE_FUNCTIONS, IMAGE_METHODS, draw, enhance, make, make_enhancer, new_image
from sandbox.lift.values import Arguments, Enhancer, Name, NotLiftableError, Pen, Picture
from sandbox.operations.operation import State
from sandbox.operations.program import ToolProgram

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
SQUARE = WIDE.crop((0, 0, 5, 5))


def start(image: Image.Image = WIDE) -> Picture:
    return Picture(0, (State(image.size, image.mode),))


def result_of(picture: Any, image: Image.Image = WIDE) -> Image.Image:
    outcome = run_program(ToolProgram(picture.operations), image)
    assert outcome is not None
    assert outcome.image.size == picture.state.size
    return outcome.image


@pytest.mark.parametrize("image", [WIDE, SQUARE], ids=["wide", "square"])
@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, 270, 360, -90, 450, 90.0, 30, 89.5])
def test_a_rotation_is_pillows(image: Image.Image, expand: bool, angle: float) -> None:
    read = IMAGE_METHODS["rotate"](start(image), Arguments((angle,), {"expand": expand}))
    assert result_of(read, image).tobytes() == image.rotate(angle, expand=expand).tobytes()
    keeps_size = angle % 180 == 0 or expand or image is SQUARE
    is_quarter = angle % 90 == 0 and keeps_size
    assert {operation.name for operation in read.operations} <= ({"orient"} if is_quarter else {"Image.rotate"})  # type: ignore[union-attr]


def test_a_rotation_that_may_fail_is_not_read() -> None:
    with pytest.raises(NotLiftableError, match="no number"):
        IMAGE_METHODS["rotate"](start(), Arguments(("90",)))
    with pytest.raises(NotLiftableError, match="resample"):
        IMAGE_METHODS["rotate"](start(), Arguments((90,), {"resample": 1}))


@pytest.mark.parametrize("method", Image.Transpose)
def test_a_transposition_is_pillows(method: Image.Transpose) -> None:
    read = IMAGE_METHODS["transpose"](start(), Arguments((method,)))
    assert result_of(read).tobytes() == WIDE.transpose(method).tobytes()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("crop", ((1, 2, 6, 5),), WIDE.crop((1, 2, 6, 5))),
        ("crop", ([1, 2, 6, 5],), WIDE.crop((1, 2, 6, 5))),
        ("crop", (), WIDE),
        ("resize", ([3, 4],), WIDE.resize((3, 4))),
        ("convert", ("L",), WIDE.convert("L")),
        ("convert", ("RGB",), WIDE),
        ("copy", (), WIDE),
        ("getchannel", (1,), WIDE.getchannel(1)),
        ("filter", (Name("ImageFilter.SHARPEN"),), WIDE.filter(ImageFilter.SHARPEN)),
    ],
)
def test_a_method_is_pillows(name: str, arguments: tuple[Any, ...], expected: Image.Image) -> None:
    assert result_of(IMAGE_METHODS[name](start(), Arguments(arguments))).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ImageOps.mirror", ImageOps.mirror(WIDE)),
        ("ImageOps.flip", ImageOps.flip(WIDE)),
        ("ImageOps.grayscale", ImageOps.grayscale(WIDE)),
        ("ImageOps.exif_transpose", WIDE),
        ("ImageOps.invert", ImageOps.invert(WIDE)),
        ("ImageChops.invert", ImageOps.invert(WIDE)),
    ],
)
def test_a_function_is_pillows(name: str, expected: Image.Image) -> None:
    assert result_of(IMAGE_FUNCTIONS[name](start(), Arguments())).tobytes() == expected.tobytes()


def test_an_image_is_pasted_into_a_new_one_once() -> None:
    page = new_image(Arguments(("RGB", [9, 8]), {"color": (1, 2, 3)}))
    IMAGE_METHODS["paste"](page, Arguments((start(), (1, 2))))
    expected = Image.new("RGB", (9, 8), (1, 2, 3))
    expected.paste(WIDE, (1, 2))
    assert result_of(page).tobytes() == expected.tobytes()
    with pytest.raises(NotLiftableError, match="onto a new one"):
        IMAGE_METHODS["paste"](page, Arguments((start(),)))
    for wrong in ((1, 2, 8, 7), 3):
        with pytest.raises(NotLiftableError, match="corner"):
            IMAGE_METHODS["paste"](new_image(Arguments(("RGB", (9, 8)))), Arguments((start(), wrong)))
    with pytest.raises(NotLiftableError, match="same mode"):
        IMAGE_METHODS["paste"](new_image(Arguments(("L", (9, 8)))), Arguments((start(),)))


@pytest.mark.parametrize("arguments", [("RGB", (0, 8)), ("RGBA", (9, 8)), ("RGB", (9, 8), None), ("RGB", 9)])
def test_a_new_image_without_pixels_or_of_another_mode_is_not_read(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotLiftableError, match="a new image"):
        new_image(Arguments(arguments))


def test_an_enhancer_holds_the_image_as_it_was() -> None:
    image = start()
    enhancer = make_enhancer("ImageEnhance.Contrast", Arguments((image,)))
    assert isinstance(enhancer, Enhancer)
    assert enhance(enhancer, Arguments((1.5,))).operations[-1].name == "ImageEnhance.Contrast"
    draw(Pen(image), "rectangle", Arguments(((0, 0, 2, 2),), {"fill": "red"}))
    with pytest.raises(NotLiftableError, match="drawn on since"):
        enhance(enhancer, Arguments((1.5,)))


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("ImageFilter.RankFilter", (3, 9), "a rank"),
        ("ImageFilter.Kernel", ((3, 3), [1] * 8), "a kernel like this"),
        ("ImageFilter.Kernel", ((5, 5), [1] * 9), "a kernel like this"),
        ("ImageFilter.Kernel", ((3, 3), [1, -1, *[0] * 7]), "scale is 0"),
        ("ImageFilter.Kernel", ((3, 3), [1] * 9, 0), "scale is 0"),
    ],
)
def test_filters_that_pillow_refuses_are_not_read(name: str, arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(NotLiftableError, match=reason):
        make(name, Arguments(arguments))


@pytest.mark.parametrize("corners", [(1, 1, 4, 3), [1, 1, 4, 3], ((1, 1), (4, 3)), [(1, 1), (4, 3)]], ids=repr)
def test_corners_may_be_flat_or_points(corners: Any) -> None:
    image = start()
    draw(Pen(image), "rectangle", Arguments((corners,), {"outline": "red"}))
    assert image.operations[-1].values[0] == (1, 1, 4, 3)
