"""How each call of OpenCV and NumPy on an array of pixels reads as operations; see `image_calls`."""

from __future__ import annotations

from typing import Any

import cv2

from sandbox.checks import is_integer
from sandbox.image_calls import TURNS, Reader, call_of, fixed_turn, parameter_of, turned
from sandbox.operations import OPERATIONS
from sandbox.symbols import Name, NotLiftableError, Picture, Unknown, append, bind, frozen


def _rot90(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    turns, axes = bind((parameter_of("k", 1), parameter_of("axes", (0, 1))), arguments, keywords)
    if not is_integer(turns) or axes not in ((0, 1), (1, 0)):
        raise NotLiftableError("an argument of rot90 that is not read here")
    return turned(picture, TURNS[(turns if axes == (0, 1) else -turns) % 4], line)


def _flip_axis(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (axis,) = bind((parameter_of("axis", None),), arguments, keywords)
    names = {0: "flip_vertical", 1: "flip_horizontal", (0, 1): "rotate_180", (1, 0): "rotate_180"}
    if isinstance(axis, bool | float | list) or axis not in names:
        raise NotLiftableError("a flip along this axis")
    return turned(picture, names[axis], line)


def _swap_axes(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    axes = bind((parameter_of("axis1"), parameter_of("axis2")), arguments, keywords)
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
    (dtype,) = bind((parameter_of("dtype"),), arguments, keywords)
    if dtype != Name("np.uint8") and dtype != "uint8":
        raise NotLiftableError("an array of another type")
    return turned(picture, "identity", line)


def _opencv_rotate(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = bind((parameter_of("rotateCode"),), arguments, keywords)
    names = {
        cv2.ROTATE_90_CLOCKWISE: "rotate_270",
        cv2.ROTATE_180: "rotate_180",
        cv2.ROTATE_90_COUNTERCLOCKWISE: "rotate_90",
    }
    if not is_integer(code) or code not in names:
        raise NotLiftableError("a rotation that OpenCV does not name")
    return turned(picture, names[code], line)


def _opencv_flip(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = bind((parameter_of("flipCode"),), arguments, keywords)
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
    (code,) = bind((parameter_of("code"),), arguments, keywords)
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
    "np.fliplr": fixed_turn("flip_horizontal"),
    "np.flipud": fixed_turn("flip_vertical"),
    "np.flip": _flip_axis,
    "np.transpose": _permute,
    "np.swapaxes": _swap_axes,
    "np.ascontiguousarray": fixed_turn("identity"),
    "np.copy": fixed_turn("identity"),
    "cv2.rotate": _opencv_rotate,
    "cv2.flip": _opencv_flip,
    "cv2.transpose": fixed_turn("transpose"),
    "cv2.cvtColor": _colour,
    **{
        name: call_of(name)
        for name, kind in OPERATIONS.items()
        if (name.startswith("cv2.") and kind.parameters) or name == "cv2.bitwise_not"
    },
    "cv2.equalizeHist": call_of("cv2.equalizeHist"),
    "cv2.threshold": _threshold,
}

#: Methods of an array of pixels.
ARRAY_METHODS: dict[str, Reader] = {
    "copy": fixed_turn("identity"),
    "transpose": _permute,
    "swapaxes": _swap_axes,
    "astype": _as_uint8,
}
