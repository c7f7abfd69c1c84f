"""Reads OpenCV and NumPy calls on an array of pixels, and slices of it; see `pillow_calls`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from sandbox.lift.pillow_calls import TURNS, Reader, turned, turns, turns_by
from sandbox.lift.values import Arguments, Maker, Name, NotLiftableError, Picture, Unknown, Value, frozen
from sandbox.operations.opencv import SPACES
from sandbox.operations.parameters import is_integer, is_number
from sandbox.operations.table import OPERATIONS

_ROTATIONS = {
    cv2.ROTATE_90_CLOCKWISE: "rotate_270",
    cv2.ROTATE_180: "rotate_180",
    cv2.ROTATE_90_COUNTERCLOCKWISE: "rotate_90",
}
_FLIPS = {0: "flip_vertical", 1: "flip_horizontal", -1: "rotate_180"}
_QUARTERS = {n_turns: TURNS[n_turns % 4] for n_turns in range(-8, 9)}
_COLOR_CODES = {
    getattr(cv2, f"COLOR_{name}"): f"cv2.{name}" for name in (*SPACES, "RGB2BGR", "RGB2GRAY", "BGR2GRAY", "GRAY2RGB")
}


def _color(picture: Picture, arguments: Arguments) -> Picture:
    (code,) = arguments.take("code")
    if not is_integer(code) or code not in _COLOR_CODES:
        raise NotLiftableError(f"cv2.cvtColor by {code!r}")
    return picture.then(_COLOR_CODES[code], ())


def _plainly(name: str) -> Reader:
    """A reader of a call that directly names an operation; lists count as tuples."""
    return lambda picture, arguments: picture.then(
        name, [frozen(value) for value in arguments.bind(OPERATIONS[name].parameters)]
    )


def _threshold(picture: Picture, arguments: Arguments) -> tuple[Value, ...]:
    values = arguments.bind(OPERATIONS["cv2.threshold"].parameters)
    kind = values[2]
    if is_integer(kind) and kind >= cv2.THRESH_OTSU and not picture.is_gray:
        raise NotLiftableError("a threshold of three channels by Otsu", "convert to gray first")
    return Unknown(), picture.then("cv2.threshold", values)


def _resize(picture: Picture, arguments: Arguments) -> Picture:
    size, across, down, *rest = arguments.bind(OPERATIONS["cv2.resize"].parameters)
    size = None if frozen(size) == (0, 0) else frozen(size)
    if not is_number(across) or not is_number(down) or (size is None) != (across > 0 and down > 0):
        raise NotLiftableError("cv2.resize by a size and factors, or by neither")
    width, height = picture.state.size
    if size is None and min(round(width * across), round(height * down)) < 1:
        raise NotLiftableError("cv2.resize to a size without pixels")
    return picture.then("cv2.resize", (size, across, down, *rest))


def _gaussian(picture: Picture, arguments: Arguments) -> Picture:
    size, *sigmas = arguments.bind(OPERATIONS["cv2.GaussianBlur"].parameters)
    if isinstance(size, tuple | list) and 0 in size and not (is_number(sigmas[0]) and sigmas[0] >= 0.1):
        raise NotLiftableError("a blur without a width")
    return picture.then("cv2.GaussianBlur", (frozen(size), *sigmas))


def _sobel(picture: Picture, arguments: Arguments) -> Picture:
    values = arguments.bind(OPERATIONS["cv2.Sobel"].parameters)
    if values[1] == values[2] == 0:
        raise NotLiftableError("a derivative of order 0")
    return picture.then("cv2.Sobel", values)


def _denoise(name: str) -> Reader:
    """A reader of a call whose `dst`, None, comes before its parameters."""

    def read(picture: Picture, arguments: Arguments) -> Picture:
        if not arguments.positional or arguments.positional[0] is not None:
            raise NotLiftableError(f"{name} without None for `dst`")
        return _plainly(name)(picture, Arguments(arguments.positional[1:], arguments.keywords))  # type: ignore[return-value]

    return read


def equalize(maker: Maker, arguments: Arguments) -> Picture:
    """Read `cv2.createCLAHE(...).apply(...)`."""
    (picture,) = arguments.take("src")
    if not isinstance(picture, Picture) or not picture.is_array:
        raise NotLiftableError("an equalization of something other than an array")
    return picture.then(maker.name, maker.values)


#: Functions of an array of pixels, by dotted name.
ARRAY_FUNCTIONS: dict[str, Reader] = {
    **{
        name: _plainly(name)
        for name, kind in OPERATIONS.items()
        if name.startswith("cv2.") and (kind.parameters or name in {"cv2.bitwise_not", "cv2.equalizeHist"})
    },
    **{name: _denoise(name) for name in OPERATIONS if name.startswith("cv2.fastNl")},
    "np.rot90": turns_by("k", _QUARTERS, "turn by 1, 2 or 3", k=1),
    "np.fliplr": turns("flip_horizontal"),
    "np.flipud": turns("flip_vertical"),
    "np.ascontiguousarray": turns("identity"),
    "cv2.rotate": turns_by("rotateCode", _ROTATIONS, "use `cv2.ROTATE_90_CLOCKWISE` or the like"),
    "cv2.flip": turns_by("flipCode", _FLIPS, "use 0, 1 or -1"),
    "cv2.transpose": turns("transpose"),
    "cv2.cvtColor": _color,
    "cv2.resize": _resize,
    "cv2.GaussianBlur": _gaussian,
    "cv2.Sobel": _sobel,
    "cv2.threshold": _threshold,
}
del ARRAY_FUNCTIONS["cv2.createCLAHE"]


def _as_type(picture: Picture, arguments: Arguments) -> Picture:
    (dtype,) = arguments.take("dtype")
    if dtype not in ("uint8", Name("np.uint8")):
        raise NotLiftableError("an array of another type", "keep its bytes")
    return picture.copy()


def _permute(picture: Picture, arguments: Arguments) -> Picture:
    axes = tuple(arguments.positional)
    if arguments.keywords or axes != ((1, 0) if picture.is_gray else (1, 0, 2)) or not all(map(is_integer, axes)):
        raise NotLiftableError("axes in another order than (1, 0, 2)")
    return turned(picture, "transpose")


#: Methods of an array of pixels.
ARRAY_METHODS: dict[str, Reader] = {"copy": turns("identity"), "astype": _as_type, "transpose": _permute}


def sliced(picture: Picture, parts: Sequence[Value | slice]) -> Picture:
    """Read slices of an array as a crop, a flip or a swap of channels.

    Raises:
        NotLiftableError: A part is not a slice, or a slice skips pixels or is empty.
    """
    if len(parts) > (2 if picture.is_gray else 3) or not all(isinstance(part, slice) for part in parts):
        raise NotLiftableError("an index into an array that is no slice", "cut out a box by `array[y1:y2, x1:x2]`")
    rows, columns, channels = [*parts, *[slice(None)] * 3][:3]
    width, height = picture.state.size
    top, bottom, flips_rows = _span(rows, height)
    left, right, flips_columns = _span(columns, width)
    if (left, top, right, bottom) != (0, 0, width, height):
        picture = picture.then("Image.crop", ((left, top, right, bottom),))
    flips = {(True, False): "flip_vertical", (False, True): "flip_horizontal", (True, True): "rotate_180"}
    picture = turned(picture, flips.get((flips_rows, flips_columns), "identity"))
    if picture.is_gray or channels == slice(None):
        return picture
    if channels == slice(None, None, -1):
        return picture.then("cv2.RGB2BGR", ())
    raise NotLiftableError("a slice of channels")


def _span(part: Value | slice, length: int) -> tuple[int, int, bool]:
    """First pixel, end, and whether the order is reversed."""
    start, stop, step = part.indices(length) if isinstance(part, slice) else (0, 0, 1)
    if step not in (1, -1) or (stop - start) * step <= 0:
        raise NotLiftableError("a slice that skips pixels or holds none")
    return (start, stop, False) if step == 1 else (stop + 1, start + 1, True)
