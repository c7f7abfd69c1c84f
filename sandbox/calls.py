"""How each call of Pillow, OpenCV and NumPy that can be lifted reads as operations.

A reader takes (picture, arguments, keywords, line) and gives the picture, or other value, that the call returns.
Spellings of the same thing become the same operation: every turn by a multiple of 90 degrees is an `orient`, every cut
an `Image.crop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
from PIL import Image

from sandbox.checks import AFFINE_RESAMPLING, RESAMPLING, Parameter, is_integer, is_number, is_size, maybe, number
from sandbox.geometry import ORIENTATIONS, PILLOW_TRANSPOSE
from sandbox.kinds import borders, contained_size
from sandbox.operations import OPERATIONS
from sandbox.symbols import (
    Enhancer,
    Filter,
    KnownFaultError,
    Name,
    NotLiftableError,
    Picture,
    Unknown,
    append,
    bind,
    frozen,
    library_fault,
)

Reader = Callable[[Picture, list[Any], dict[str, Any], int], Any]

_TURNS = ("identity", "rotate_90", "rotate_180", "rotate_270")
_BY_TRANSPOSE = {int(method): name for name, method in PILLOW_TRANSPOSE.items()}


def _anything(value: object) -> bool | None:
    return True


def _parameter(name: str, default: Any = ...) -> Parameter:
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
            return turned(picture, _TURNS[int(angle) // 90], line)
    if angle in (90, 270) and not AFFINE_RESAMPLING(values[1]):
        raise NotLiftableError("a resampling that rotate does not take")
    return append(picture, "Image.rotate", values, line)


def _transpose(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (method,) = bind((_parameter("method"),), arguments, keywords)
    if not is_integer(method):
        raise NotLiftableError("a transpose method that is no integer")
    if method not in _BY_TRANSPOSE:
        raise library_fault(lambda: Image.new("RGB", (1, 1)).transpose(method))
    return turned(picture, _BY_TRANSPOSE[method], line)


def _crop(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (box,) = bind((_parameter("box", None),), arguments, keywords)
    return turned(picture, "identity", line) if box is None else cut(picture, frozen(box), line)


def _convert(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (mode,) = bind((_parameter("mode"),), arguments, keywords)
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
    (chosen,) = bind((_parameter("filter"),), arguments, keywords)
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
        picture.states, picture.operations = resized.states, resized.operations
        picture.is_changed = True


def _method_of(name: str) -> Reader:
    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        return append(picture, name, bind(OPERATIONS[name].parameters, arguments, keywords), line)

    return read


def _resize(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    size, *rest = bind(OPERATIONS["Image.resize"].parameters, arguments, keywords)
    return append(picture, "Image.resize", (frozen(size), *rest), line)


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
}


def _fixed_turn(orientation: str) -> Reader:
    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        bind((), arguments, keywords)
        return turned(picture, orientation, line)

    return read


def _grayscale(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    return _convert(picture, ["L", *arguments], keywords, line)


def _sized(name: str) -> Reader:
    """`ImageOps.contain` and `ImageOps.fit`: each is a single resize."""

    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        tail = (_parameter("bleed", 0.0), _parameter("centering", (0.5, 0.5))) if name == "fit" else ()
        values = bind((_parameter("size"), Parameter("method", RESAMPLING, 3), *tail), arguments, keywords)
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
        return append(picture, "Image.resize", (size, values[1], _fit_box(picture.state.size, size), None), line)

    return read


def _fit_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box that `ImageOps.fit` resizes, in its own arithmetic."""
    wide, high = size[0] - 0.0, size[1] - 0.0
    ratio = target[0] / target[1]
    crop_wide, crop_high = wide, high
    if wide / high > ratio:
        crop_wide = ratio * high
    elif wide / high != ratio:
        crop_high = wide / ratio
    left, top = 0.0 + (wide - crop_wide) * 0.5, 0.0 + (high - crop_high) * 0.5
    return left, top, left + crop_wide, top + crop_high


def _scale(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    factor, resample = bind((_parameter("factor"), Parameter("resample", RESAMPLING, 3)), arguments, keywords)
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
    "ImageOps.mirror": _fixed_turn("flip_horizontal"),
    "ImageOps.flip": _fixed_turn("flip_vertical"),
    "ImageOps.grayscale": _grayscale,
    "ImageOps.contain": _sized("contain"),
    "ImageOps.fit": _sized("fit"),
    "ImageOps.scale": _scale,
    "ImageOps.crop": _border_crop,
    **{name: _method_of(name) for name in OPERATIONS if name.startswith("ImageOps.")},
}


def _rot90(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    turns, axes = bind((_parameter("k", 1), _parameter("axes", (0, 1))), arguments, keywords)
    if not is_integer(turns) or axes not in ((0, 1), (1, 0)):
        raise NotLiftableError("an argument of rot90 that is not read here")
    return turned(picture, _TURNS[(turns if axes == (0, 1) else -turns) % 4], line)


def _flip_axis(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (axis,) = bind((_parameter("axis", None),), arguments, keywords)
    names = {0: "flip_vertical", 1: "flip_horizontal", (0, 1): "rotate_180", (1, 0): "rotate_180"}
    if isinstance(axis, bool | float | list) or axis not in names:
        raise NotLiftableError("a flip along this axis")
    return turned(picture, names[axis], line)


def _swap_axes(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    axes = bind((_parameter("axis1"), _parameter("axis2")), arguments, keywords)
    if axes not in ([0, 1], [1, 0]):
        raise NotLiftableError("axes that are not read here")
    return turned(picture, "transpose", line)


def _permute(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    if keywords:
        raise NotLiftableError("axes by keyword")
    axes = tuple(frozen(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments)
    if axes != ((1, 0) if picture.is_gray else (1, 0, 2)) or any(isinstance(axis, bool | float) for axis in axes):
        raise NotLiftableError("axes that are not read here")
    return turned(picture, "transpose", line)


def _as_uint8(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (dtype,) = bind((_parameter("dtype"),), arguments, keywords)
    if dtype != Name("np.uint8") and dtype != "uint8":
        raise NotLiftableError("an array of another type")
    return turned(picture, "identity", line)


def _opencv_rotate(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = bind((_parameter("rotateCode"),), arguments, keywords)
    names = {
        cv2.ROTATE_90_CLOCKWISE: "rotate_270",
        cv2.ROTATE_180: "rotate_180",
        cv2.ROTATE_90_COUNTERCLOCKWISE: "rotate_90",
    }
    if not is_integer(code) or code not in names:
        raise NotLiftableError("a rotation that OpenCV does not name")
    return turned(picture, names[code], line)


def _opencv_flip(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = bind((_parameter("flipCode"),), arguments, keywords)
    if not is_integer(code) or abs(code) > 1000:
        raise NotLiftableError("a flip code that is no integer")
    return turned(picture, "flip_vertical" if code == 0 else "flip_horizontal" if code > 0 else "rotate_180", line)


_COLOUR_CODES = {
    cv2.COLOR_RGB2BGR: "RGB2BGR",
    cv2.COLOR_RGB2GRAY: "RGB2GRAY",
    cv2.COLOR_BGR2GRAY: "BGR2GRAY",
    cv2.COLOR_GRAY2RGB: "GRAY2RGB",
}


def _colour(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = bind((_parameter("code"),), arguments, keywords)
    if not is_integer(code) or code not in _COLOUR_CODES:
        raise NotLiftableError("a colour conversion that is not read here")
    return append(picture, f"cv2.{_COLOUR_CODES[code]}", (), line)


def _threshold(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> tuple[Unknown, Picture]:
    values = bind(OPERATIONS["cv2.threshold"].parameters, arguments, keywords)
    return Unknown(), append(picture, "cv2.threshold", values, line)


def _canny(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    return append(picture, "cv2.Canny", bind(OPERATIONS["cv2.Canny"].parameters, arguments, keywords), line)


#: Functions of an array of pixels, by dotted name.
ARRAY_FUNCTIONS: dict[str, Reader] = {
    "np.rot90": _rot90,
    "np.fliplr": _fixed_turn("flip_horizontal"),
    "np.flipud": _fixed_turn("flip_vertical"),
    "np.flip": _flip_axis,
    "np.transpose": _permute,
    "np.swapaxes": _swap_axes,
    "np.ascontiguousarray": _fixed_turn("identity"),
    "np.copy": _fixed_turn("identity"),
    "cv2.rotate": _opencv_rotate,
    "cv2.flip": _opencv_flip,
    "cv2.transpose": _fixed_turn("transpose"),
    "cv2.cvtColor": _colour,
    **{
        name: _method_of(name)
        for name, kind in OPERATIONS.items()
        if (name.startswith("cv2.") and kind.parameters) or name == "cv2.bitwise_not"
    },
    "cv2.equalizeHist": _method_of("cv2.equalizeHist"),
    "cv2.threshold": _threshold,
}

#: Methods of an array of pixels.
ARRAY_METHODS: dict[str, Reader] = {
    "copy": _fixed_turn("identity"),
    "transpose": _permute,
    "swapaxes": _swap_axes,
    "astype": _as_uint8,
}


def make_filter(path: str, arguments: list[Any], keywords: dict[str, Any]) -> Filter:
    """A filter object with its parameters; they are checked where it is used."""
    return Filter(path, tuple(bind(OPERATIONS[path].parameters, arguments, keywords)))


def make_enhancer(path: str, arguments: list[Any], keywords: dict[str, Any]) -> Enhancer:
    """An enhancer of a picture as it is now."""
    (picture,) = bind((_parameter("image"),), arguments, keywords)
    if not isinstance(picture, Picture) or picture.is_array or min(picture.state.size) < 1:
        raise NotLiftableError("an enhancer of something else than an image")
    return Enhancer(path, picture, picture.operations)


def enhance(enhancer: Enhancer, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    """The picture that `enhancer.enhance(...)` returns."""
    if enhancer.picture.operations is not enhancer.operations:
        raise NotLiftableError("an enhancer whose image has changed since")
    return append(
        enhancer.picture, enhancer.name, bind(OPERATIONS[enhancer.name].parameters, arguments, keywords), line
    )


__all__ = [
    "ARRAY_FUNCTIONS",
    "ARRAY_METHODS",
    "IMAGE_FUNCTIONS",
    "IMAGE_METHODS",
    "ORIENTATIONS",
    "KnownFaultError",
    "cut",
    "enhance",
    "make_enhancer",
    "make_filter",
    "turned",
]
