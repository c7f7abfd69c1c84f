"""How each call of OpenCV and NumPy on an array of pixels reads as operations; see `image_calls`."""

from __future__ import annotations

from typing import Any

import cv2

from sandbox.lift.image_calls import TURNS, Reader, fixed_turn, parameter_of, turned
from sandbox.lift.symbols import NotLiftableError, Picture, Unknown, Wide, append, bind, frozen
from sandbox.operations.opencv import SPACES
from sandbox.operations.parameters import Parameter, is_integer, is_number
from sandbox.operations.table import OPERATIONS


def _rot90(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    turns, axes = bind((parameter_of("k", 1), parameter_of("axes", (0, 1))), arguments, keywords)
    if not is_integer(turns) or axes not in ((0, 1), (1, 0)) or not all(map(is_integer, axes)):
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
    if axes not in ([0, 1], [1, 0]) or not all(map(is_integer, axes)):
        raise NotLiftableError("axes that are not read here")
    return turned(picture, "transpose", line)


def _permute(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    if keywords:
        raise NotLiftableError("axes by keyword")
    axes = tuple(frozen(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments)
    if axes != ((1, 0) if picture.is_gray else (1, 0, 2)) or any(isinstance(axis, bool | float) for axis in axes):
        raise NotLiftableError("axes that are not read here")
    return turned(picture, "transpose", line)


#: Where `dst` stands among the arguments after the image, in functions of OpenCV that have it before others or last.
_TARGETS = {
    **dict.fromkeys(("bitwise_not", "convertScaleAbs", "equalizeHist", "transpose", "fastNlMeansDenoising"), 0),
    **dict.fromkeys(("cvtColor", "flip", "rotate", "medianBlur", "blur", "resize", "erode", "dilate", "LUT"), 1),
    **dict.fromkeys(("add", "subtract", "absdiff", "bitwise_and", "bitwise_or", "magnitude", "Laplacian"), 1),
    **dict.fromkeys(("GaussianBlur", "morphologyEx", "filter2D", "warpAffine"), 2),
    **dict.fromkeys(("threshold", "bilateralFilter", "Sobel", "Scharr"), 3),
    **{"addWeighted": 4, "adaptiveThreshold": 5, "copyMakeBorder": 5, "fastNlMeansDenoisingColored": 0},
}


#: Functions whose next argument after `dst` is one that is not read here.
_ANCHORED = ("cv2.erode", "cv2.dilate", "cv2.morphologyEx")


def without_target(path: str, arguments: list[Any], keywords: dict[str, Any]) -> tuple[list[Any], dict[str, Any], bool]:
    """Arguments of a function of OpenCV without a `dst` that is None; whether all others may stand by position.

    Args:
        path: Dotted name of the function.
        arguments: With the image, if the function's parameters begin with it, or without.
        keywords: As they are written.
    """
    keywords = dict(keywords)
    if keywords.get("dst") is None:
        keywords.pop("dst", None)
    place = _TARGETS.get(path.removeprefix("cv2."), 99) + (1 if arguments and isinstance(arguments[0], _ARRAYS) else 0)
    if path.startswith("cv2.") and len(arguments) > place:
        if arguments[place] is not None:
            raise NotLiftableError("an array to write to")
        is_next = path not in _ANCHORED  # else what follows dst is the anchor
        return [*arguments[:place], *arguments[place + 1 :]], keywords, is_next
    return arguments, keywords, False


def _opencv_rotate(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = _bound("cv2.rotate", (parameter_of("rotateCode"),), arguments, keywords)
    names = {
        cv2.ROTATE_90_CLOCKWISE: "rotate_270",
        cv2.ROTATE_180: "rotate_180",
        cv2.ROTATE_90_COUNTERCLOCKWISE: "rotate_90",
    }
    if not is_integer(code) or code not in names:
        raise NotLiftableError("a rotation that OpenCV does not name")
    return turned(picture, names[code], line)


def _opencv_flip(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = _bound("cv2.flip", (parameter_of("flipCode"),), arguments, keywords)
    if not is_integer(code) or abs(code) > 1000:
        raise NotLiftableError("a flip code that is no integer")
    return turned(picture, "flip_vertical" if code == 0 else "flip_horizontal" if code > 0 else "rotate_180", line)


def _bound(path: str, parameters: tuple[Parameter, ...], arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
    arguments, keywords, by_position = without_target(path, arguments, keywords)
    return bind(parameters, arguments, keywords, by_position=by_position)


_COLOUR_CODES = {
    getattr(cv2, f"COLOR_{name}"): name for name in (*SPACES, "RGB2BGR", "RGB2GRAY", "BGR2GRAY", "GRAY2RGB")
}


def _colour(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    (code,) = _bound("cv2.cvtColor", (parameter_of("code"),), arguments, keywords)
    if not is_integer(code) or code not in _COLOUR_CODES:
        raise NotLiftableError("a colour conversion that is not read here")
    return append(picture, f"cv2.{_COLOUR_CODES[code]}", (), line)


def _opencv_call(name: str) -> Reader:
    """A reader of a call that is an operation as it stands; lists are tuples to it."""

    def read(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
        values = _bound(name, OPERATIONS[name].parameters, arguments, keywords)
        return append(picture, name, [frozen(value) for value in values], line)

    return read


def _threshold(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> tuple[Unknown, Picture]:
    values = _bound("cv2.threshold", OPERATIONS["cv2.threshold"].parameters, arguments, keywords)
    if is_integer(values[2]) and values[2] >= cv2.THRESH_OTSU and not picture.is_gray:
        raise NotLiftableError("a threshold of three channels by Otsu")
    return Unknown(), append(picture, "cv2.threshold", values, line)


def _opencv_resize(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    arguments, keywords, by_position = without_target("cv2.resize", arguments, keywords)
    if not arguments and "dsize" not in keywords:
        keywords["dsize"] = None
    size, *rest = bind(OPERATIONS["cv2.resize"].parameters, arguments, keywords, by_position=by_position)
    size, (across, down) = frozen(size), rest[:2]
    if size == (0, 0):
        size = None
    if not is_number(across) or not is_number(down) or (size is None) != (across > 0 and down > 0):
        raise NotLiftableError("a resize by a size and factors, or by neither")
    if size is None and min(round(picture.state.size[0] * across), round(picture.state.size[1] * down)) < 1:
        raise NotLiftableError("a size without pixels")
    return append(picture, "cv2.resize", (size, *rest), line)


def _gaussian(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    size, *sigmas = _bound("cv2.GaussianBlur", OPERATIONS["cv2.GaussianBlur"].parameters, arguments, keywords)
    if size in ((0, 0), [0, 0]) and not (is_number(sigmas[0]) and sigmas[0] >= 0.1):
        raise NotLiftableError("a blur without a width")
    return append(picture, "cv2.GaussianBlur", (frozen(size), *sigmas), line)


def _padded(picture: Picture, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    parameters = (parameter_of("pad_width"), parameter_of("mode", "constant"), parameter_of("constant_values", 0))
    widths, mode, value = bind(parameters, arguments, keywords)
    widths = frozen(widths)
    if is_integer(widths):
        widths = ((widths, widths),) * 2 if picture.is_gray else None
    if not isinstance(widths, tuple) or len(widths) != (2 if picture.is_gray else 3):
        raise NotLiftableError("a border that is not read here")
    pairs = [(width, width) if is_integer(width) else width for width in widths]
    kinds = {"constant": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE}
    is_plain = is_integer(value) and 0 <= value <= 255 and mode in kinds
    if pairs[2:] not in ([], [(0, 0)]) or not is_plain or not all(isinstance(pair, tuple) for pair in pairs):
        raise NotLiftableError("a border that is not read here")
    (top, bottom), (left, right) = pairs[:2]
    colour = (value, value, value) if mode == "constant" else 0
    return append(picture, "cv2.copyMakeBorder", (top, bottom, left, right, kinds[mode], colour), line)


def equalized(values: tuple[Any, ...], picture: Any, line: int) -> Picture:
    """What `cv2.createCLAHE(...).apply(...)` gives."""
    if not isinstance(picture, Picture) or not picture.is_array:
        raise NotLiftableError("an equalization of something else than an array")
    return append(picture, "cv2.createCLAHE", values, line)


_ARRAYS = (Picture, Wide)

#: Functions of an array of pixels, by dotted name.
ARRAY_FUNCTIONS: dict[str, Reader] = {
    **{
        name: _opencv_call(name)
        for name, kind in OPERATIONS.items()
        if name.startswith("cv2.") and (kind.parameters or name in {"cv2.bitwise_not", "cv2.equalizeHist"})
    },
    "np.rot90": _rot90,
    "np.fliplr": fixed_turn("flip_horizontal"),
    "np.flipud": fixed_turn("flip_vertical"),
    "np.flip": _flip_axis,
    "np.transpose": _permute,
    "np.swapaxes": _swap_axes,
    "np.ascontiguousarray": fixed_turn("identity"),
    "np.copy": fixed_turn("identity"),
    "np.invert": _opencv_call("cv2.bitwise_not"),
    "np.bitwise_not": _opencv_call("cv2.bitwise_not"),
    "np.pad": _padded,
    "cv2.rotate": _opencv_rotate,
    "cv2.flip": _opencv_flip,
    "cv2.transpose": fixed_turn("transpose"),
    "cv2.cvtColor": _colour,
    "cv2.resize": _opencv_resize,
    "cv2.GaussianBlur": _gaussian,
    "cv2.threshold": _threshold,
}

#: Methods of an array of pixels.
ARRAY_METHODS: dict[str, Reader] = {
    "copy": fixed_turn("identity"),
    "transpose": _permute,
    "swapaxes": _swap_axes,
}
