"""Names, attributes and methods are those that Python finds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sandbox.lift.calls import FUNCTIONS, PROVIDED, attribute, function, is_builtin, method, module, part_of_pillow
from sandbox.lift.values import Arguments, KnownFaultError, Name, NotLiftableError, Picture
from sandbox.operations.operation import State


def picture(mode: str = "RGB", *, is_array: bool = False) -> Picture:
    return Picture(0, (State((7, 5), mode),), is_array=is_array)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_attributes_are_those_of_the_object(mode: str) -> None:
    image = Image.new(mode, (7, 5))
    for name in ("size", "width", "height", "mode"):
        assert attribute(picture(mode), name) == getattr(image, name)
    assert attribute(picture(mode, is_array=True), "shape") == np.asarray(image).shape


def message_of(value: Any, name: str) -> str:
    with pytest.raises(AttributeError) as caught:
        getattr(value, name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("owner", "real", "name"),
    [
        (picture(is_array=True), np.zeros((5, 7, 3), np.uint8), "size_of"),
        (picture(is_array=True), np.zeros((5, 7, 3), np.uint8), "width"),
        (picture(), Image.new("RGB", (7, 5)), "shape"),
        (Name("Image"), Image, "ROTATE_45"),
        (Name("cv2"), cv2, "COLOR_RGB2PINK"),
    ],
)
def test_an_attribute_that_is_not_there_fails_in_the_same_words(owner: Any, real: Any, name: str) -> None:
    with pytest.raises(KnownFaultError) as caught:
        attribute(owner, name)
    assert caught.value.kind == "AttributeError"
    assert str(caught.value) == message_of(real, name)


def test_an_attribute_that_is_there_but_not_read_is_left_to_a_run() -> None:
    for owner, name in ((picture(), "info"), (picture(is_array=True), "dtype"), (Name("np"), "pi")):
        with pytest.raises(NotLiftableError):
            attribute(owner, name)


def test_constants_have_the_librarys_values() -> None:
    assert attribute(Name("cv2"), "COLOR_RGB2GRAY") == cv2.COLOR_RGB2GRAY
    assert attribute(Name("cv2"), "INTER_AREA") == cv2.INTER_AREA
    assert attribute(Name("Image.Resampling"), "LANCZOS") == Image.Resampling.LANCZOS
    assert attribute(Name("Image.Transpose"), "ROTATE_90") == Image.Transpose.ROTATE_90
    assert attribute(Name("Image"), "Transpose") == Name("Image.Transpose")
    assert attribute(Name("PIL"), "ImageOps") == Name("ImageOps")


def test_imports_bind_what_a_snippet_finds_anyway() -> None:
    assert module("numpy") == PROVIDED["np"]
    assert part_of_pillow("ImageOps") == PROVIDED["ImageOps"]
    with pytest.raises(NotLiftableError, match="import of os"):
        module("os")
    with pytest.raises(NotLiftableError, match="from PIL"):
        part_of_pillow("ImageGrab")


def test_functions_take_images_or_arrays_as_the_library_does() -> None:
    array = function(Name("np.array"))(Arguments((picture(),)))
    assert isinstance(array, Picture)
    assert array.is_array
    back = function(Name("Image.fromarray"))(Arguments((array,)))
    assert isinstance(back, Picture)
    assert not back.is_array
    for name, wrong in (
        ("Image.fromarray", picture()),
        ("cv2.flip", picture()),
        ("ImageOps.mirror", array),
        ("ImageDraw.Draw", array),
    ):
        with pytest.raises(NotLiftableError):
            function(Name(name))(Arguments((wrong, 1) if name == "cv2.flip" else (wrong,)))


def test_what_is_no_function_is_not_called() -> None:
    for value in (Name("np"), Name("os.system"), 3, picture()):
        with pytest.raises(NotLiftableError, match="a call"):
            function(value)
    with pytest.raises(NotLiftableError, match="the method show"):
        method(picture(), "show")
    with pytest.raises(KnownFaultError, match="no attribute 'rotat'"):
        method(picture(), "rotat")


def test_every_function_that_is_read_exists() -> None:
    homes = {"cv2": cv2, "np": np}
    for path in FUNCTIONS:
        owner, _, name = path.rpartition(".")
        assert (
            hasattr(homes[owner] if owner in homes else __import__(f"PIL.{owner}", fromlist=["x"]), name)
            if owner
            else is_builtin(name)
        ), path
