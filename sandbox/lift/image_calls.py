"""How each call of Pillow that can be lifted reads as operations; `array_calls` has those of OpenCV and NumPy.

A reader takes (picture, arguments, keywords, line) and gives the picture, or other value, that the call returns.
Spellings of the same thing become the same operation: every turn by a multiple of 90 degrees is an `orient`, every cut
an `Image.crop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from PIL import Image

from sandbox.geometry import PILLOW_TRANSPOSE
from sandbox.lift.symbols import (
    Closure,
    Filter,
    Name,
    NotLiftableError,
    Picture,
    Unknown,
    append,
    bind,
    change,
    frozen,
    library_fault,
)
from sandbox.operations.arrays import Table
from sandbox.operations.outputs import borders, contained_size, fit_box
from sandbox.operations.parameters import (
    AFFINE_RESAMPLING,
    RESAMPLING,
    Parameter,
    is_integer,
    is_number,
    is_size,
    maybe,
    number,
)
from sandbox.operations.table import OPERATIONS

Reader = Callable[[Picture, list[Any], dict[str, Any], int], Any]

TURNS = ("identity", "rotate_90", "rotate_180", "rotate_270")
_BY_TRANSPOSE = {int(method): name for name, method in PILLOW_TRANSPOSE.items()}


def _anything(value: object) -> bool | None:
    return True


def parameter_of(name: str, default: Any = ...) -> Parameter:
    """A parameter that its reader checks by itself."""
    return Parameter(name, _anything, default)


def turned(picture: Picture, orientation: str, line: int) -> Picture:
    """The picture in one of the eight orientations; always a new object."""
    if orientation == "identity":
        return Picture(picture.source, picture.states, picture.operations, is_array=picture.is_array)
    return append(picture, "orient", (orientation,), line)


def cut(picture: Picture, box: tuple[Any, ...], line: int) -> Picture:
    """The picture inside a box of pixels."""
    return append(picture, "Image.crop", (box,), line)


def _rotate(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    values = bind(OPERATIONS["Image.rotate"].parameters, arguments, keywords)
    angle, _, expand, center, translate, _ = values
    if not is_number(angle):
        raise NotLiftableError("an angle that is no number")
    angle = angle % 360.0
    if not center and not translate:
        width, height = picture.state.size
        if angle in (0, 180) or (angle in (90, 270) and (expand or width == height)):
            return turned(picture, TURNS[int(angle) // 90], line)
    if angle in (90, 270) and not AFFINE_RESAMPLING(values[1]):
        raise NotLiftableError("a resampling that rotate does not take")
    return append(picture, "Image.rotate", values, line)


def _transpose(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (method,) = bind((parameter_of("method"),), arguments, keywords)
    if not is_integer(method):
        raise NotLiftableError("a transpose method that is no integer")
    if method not in _BY_TRANSPOSE:
        raise library_fault(lambda: Image.new("RGB", (1, 1)).transpose(method))
    return turned(picture, _BY_TRANSPOSE[method], line)


def _crop(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (box,) = bind((parameter_of("box", None),), arguments, keywords)
    return turned(picture, "identity", line) if box is None else cut(picture, frozen(box), line)


def _convert(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (mode,) = bind((parameter_of("mode"),), arguments, keywords)
    if mode == picture.state.mode:
        return turned(picture, "identity", line)
    return append(picture, "Image.convert", (mode,), line)


def _copy(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    bind((), arguments, keywords)
    return turned(picture, "identity", line)


def _load(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Unknown:
    bind((), arguments, keywords)
    return Unknown()


def _filter(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (chosen,) = bind((parameter_of("filter"),), arguments, keywords)
    if isinstance(chosen, Name) and chosen.path in OPERATIONS and not OPERATIONS[chosen.path].parameters:
        return append(picture, chosen.path, (), line)
    if isinstance(chosen, Filter):
        return append(picture, chosen.name, chosen.values, line)
    raise NotLiftableError("a filter that is not read here")


def _thumbnail_size(size: tuple[int, int], within: tuple[Any, ...]) -> tuple[int, int] | None:
    """As `Image.thumbnail` computes it; None where the image fits already."""
    width, height = size
    x, y = (math.floor(side) for side in within)
    if x >= width and y >= height:
        return None
    if x < 1 or y < 1:
        raise NotLiftableError("a thumbnail without pixels")
    aspect = width / height
    if x / y >= aspect:
        number_x = y * aspect
        x = max(min(math.floor(number_x), math.ceil(number_x), key=lambda n: abs(aspect - n / y)), 1)
    else:
        number_y = x / aspect
        y = max(min(math.floor(number_y), math.ceil(number_y), key=lambda n: 0 if n == 0 else abs(aspect - x / n)), 1)
    return x, y


def _thumbnail(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> None:
    parameters = (
        Parameter("size", _anything),
        Parameter("resample", RESAMPLING, 3),
        Parameter("reducing_gap", maybe(number(1, 100)), 2.0),
    )
    size, resample, gap = bind(parameters, arguments, keywords)
    size = frozen(size)
    if not isinstance(size, tuple) or len(size) != 2 or not all(map(is_number, size)):
        raise NotLiftableError("a thumbnail size that is not read here")
    if not parameters[1].check(resample) or not parameters[2].check(gap):
        raise NotLiftableError("an argument of thumbnail that is not read here")
    target = _thumbnail_size(picture.state.size, size)
    if target is not None and target != picture.state.size:
        resized = append(picture, "Image.resize", (target, resample, None, gap), line)
        change(picture, resized)
        picture.is_changed = True


def call_of(name: str) -> Reader:
    """A reader of a call that is an operation as it stands."""

    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        return append(picture, name, bind(OPERATIONS[name].parameters, arguments, keywords), line)

    return read


def _resize(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    size, *rest = bind(OPERATIONS["Image.resize"].parameters, arguments, keywords)
    return append(picture, "Image.resize", (frozen(size), *rest), line)


def _channel(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (channel,) = bind((parameter_of("channel"),), arguments, keywords)
    names = {"R": 0, "G": 1, "B": 2}
    return append(picture, "Image.getchannel", (names.get(channel, channel),), line)


def _point(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    function, mode = bind((parameter_of("lut"), parameter_of("mode", None)), arguments, keywords)
    if mode is not None or not isinstance(function, Closure | list | tuple):
        raise NotLiftableError("a table that is not read here")
    numbers = [function.call(value) for value in range(256)] if isinstance(function, Closure) else function
    if len(numbers) != 256 or not all(isinstance(number, int | float) for number in numbers):
        raise NotLiftableError("a table that is not read here")
    if isinstance(function, list | tuple) and not picture.is_gray:
        raise NotLiftableError("a table for one channel")
    if not all(abs(number) < 2**31 - 1 for number in numbers):  # beyond, Pillow keeps the lowest bits
        raise NotLiftableError("a table of large numbers")
    entries = tuple(min(max(round(number), 0), 255) for number in numbers)
    return append(picture, "cv2.LUT", (Table(entries, "uint8"),), line)


def _transform(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    size, method, data, *rest = bind(OPERATIONS["Image.transform"].parameters, arguments, keywords)
    if not isinstance(data, tuple | list) or len(data) != {0: 6, 1: 4, 2: 8, 3: 8}.get(method):
        raise NotLiftableError("a transformation that is not read here")
    return append(picture, "Image.transform", (frozen(size), method, frozen(data), *rest), line)


#: Methods of a Pillow image.
IMAGE_METHODS: dict[str, Reader] = {
    "rotate": _rotate,
    "transpose": _transpose,
    "crop": _crop,
    "resize": _resize,
    "convert": _convert,
    "copy": _copy,
    "load": _load,
    "filter": _filter,
    "thumbnail": _thumbnail,
    "getchannel": _channel,
    "point": _point,
    "transform": _transform,
}


def fixed_turn(orientation: str) -> Reader:
    """A reader of a call without further arguments that turns or mirrors."""

    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        bind((), arguments, keywords)
        return turned(picture, orientation, line)

    return read


def _grayscale(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    return _convert(picture, ["L", *arguments], keywords, line)


def _sized(name: str) -> Reader:
    """`ImageOps.contain` and `ImageOps.fit`: each is a single resize."""

    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        tail = (parameter_of("bleed", 0.0), parameter_of("centering", (0.5, 0.5))) if name == "fit" else ()
        values = bind((parameter_of("size"), Parameter("method", RESAMPLING, 3), *tail), arguments, keywords)
        size = frozen(values[0])
        if not is_size(size) or not RESAMPLING(values[1]):
            raise NotLiftableError(f"an argument of ImageOps.{name} that is not read here")
        if name == "contain":
            size = contained_size(picture.state.size, size)
            if min(size) < 1:
                raise NotLiftableError("a size without pixels")
            return append(picture, "Image.resize", (size, values[1], None, None), line)
        if values[2:] != [0.0, (0.5, 0.5)]:
            raise NotLiftableError("bleed or centering")
        return append(picture, "Image.resize", (size, values[1], fit_box(picture.state.size, size), None), line)

    return read


def _scale(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    factor, resample = bind((parameter_of("factor"), Parameter("resample", RESAMPLING, 3)), arguments, keywords)
    if not is_number(factor) or factor <= 0 or not RESAMPLING(resample):
        raise NotLiftableError("an argument of ImageOps.scale that is not read here")
    if factor == 1:
        return turned(picture, "identity", line)
    width, height = picture.state.size
    return append(
        picture, "Image.resize", ((round(factor * width), round(factor * height)), resample, None, None), line
    )


def _border_crop(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (border,) = bind((Parameter("border", _anything, 0),), arguments, keywords)
    parts = border if isinstance(border, tuple) and len(border) in (2, 4) else (border,)
    if not all(is_integer(part) and part >= 0 for part in parts):
        raise NotLiftableError("a border that is not read here")
    left, top, right, bottom = borders(border)
    width, height = picture.state.size
    return cut(picture, (left, top, width - right, height - bottom), line)


#: Functions of a Pillow image, by dotted name.
IMAGE_FUNCTIONS: dict[str, Reader] = {
    "ImageOps.mirror": fixed_turn("flip_horizontal"),
    "ImageOps.flip": fixed_turn("flip_vertical"),
    "ImageOps.grayscale": _grayscale,
    "ImageOps.exif_transpose": fixed_turn("identity"),  # images come without EXIF in every lane
    "ImageChops.invert": lambda picture, arguments, keywords, line: append(
        picture, "ImageOps.invert", bind((), arguments, keywords), line
    ),
    "ImageOps.contain": _sized("contain"),
    "ImageOps.fit": _sized("fit"),
    "ImageOps.scale": _scale,
    "ImageOps.crop": _border_crop,
    **{name: call_of(name) for name in OPERATIONS if name.startswith("ImageOps.")},
}
