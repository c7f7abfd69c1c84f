"""The functions that a formula may hold: NumPy's, OpenCV's and Pillow's, with what is known of their results."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageChops

from sandbox.geometry import Size


@dataclass(frozen=True)
class Shape:
    """What is known of an array before it exists.

    Attributes:
        size: (width, height); None of a single number.
        is_gray: Whether it has no axis of channels.
        dtype: Its type.
    """

    size: Size | None
    is_gray: bool
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))

    def sample(self) -> Any:
        """A small array, or number, of this type."""
        if self.size is None:
            return self.dtype.type(1)
        return np.ones((3, 4) if self.is_gray else (3, 4, 3), self.dtype)


def _same(shapes: list[Shape]) -> Shape | None:
    """All arrays have one shape, which stays."""
    sized = [shape for shape in shapes if shape.size is not None]
    first = sized[0]
    is_equal = all((shape.size, shape.is_gray) == (first.size, first.is_gray) for shape in sized)
    return first if is_equal else None


def _same_in(types: str) -> Callable[[list[Shape]], Shape | None]:
    """As `_same`, for functions that are given arrays of these types only, and no numbers that are computed."""

    def shape(shapes: list[Shape]) -> Shape | None:
        is_known = all(shape.size is not None and shape.dtype.char in types for shape in shapes)
        return _same(shapes) if is_known else None

    return shape


#: Types that OpenCV has always had: on those that version 5 added some functions write beyond their arrays.
_of_opencv = _same_in("Bhfd")
_of_pillow = _same_in("B")


def _merged(shapes: list[Shape]) -> Shape | None:
    """Three gray arrays become the channels of one."""
    first = _of_opencv(shapes)
    return Shape(first.size, is_gray=False) if first and first.is_gray and len(shapes) == 3 else None


def _single(shapes: list[Shape]) -> Shape | None:
    """An array becomes a number."""
    return Shape(None, is_gray=True) if len(shapes) == 1 else None


def _beside(shapes: list[Shape]) -> Shape | None:
    """Arrays of one height stand side by side."""
    sizes = [shape.size or (0, 0) for shape in shapes]
    if len({(size[1], shape.is_gray) for size, shape in zip(sizes, shapes, strict=True)}) != 1:
        return None
    return Shape((sum(size[0] for size in sizes), sizes[0][1]), shapes[0].is_gray)


def _below(shapes: list[Shape]) -> Shape | None:
    """Arrays of one width stand one below the other."""
    sizes = [shape.size or (0, 0) for shape in shapes]
    if len({(size[0], shape.is_gray) for size, shape in zip(sizes, shapes, strict=True)}) != 1:
        return None
    return Shape((sizes[0][0], sum(size[1] for size in sizes)), shapes[0].is_gray)


@dataclass(frozen=True)
class Function:
    """A function that a formula may hold.

    Attributes:
        call: (arguments) -> array or number.
        template: How it is written; `{0}`, `{1}` are its arguments, `{all}` is a list of them.
        shape: Shapes of its arrays -> that of its result; None where it would fail.
        is_pointwise: Whether each value of the result depends on the values in its place alone.
        tool: Its canonical tool name.
    """

    call: Callable[..., Any]
    template: str
    shape: Callable[[list[Shape]], Shape | None] = _same
    is_pointwise: bool = False
    tool: str = "arithmetic"


def _point(call: Callable[..., Any], template: str) -> Function:
    return Function(call, template, is_pointwise=True)


def _operator(call: Callable[..., Any], sign: str) -> Function:
    return _point(call, f"({{0}} {sign} {{1}})")


def _opencv(name: str, template: str, call: Callable[..., Any], tool: str = "arithmetic") -> Function:
    return Function(call, f"cv2.{name}({template})", _of_opencv, tool=tool)


def _pillow(name: str, call: Callable[..., Image.Image], n_numbers: int = 0) -> Function:
    """A function of two Pillow images."""
    numbers = "".join(f", {{{2 + index}}}" for index in range(n_numbers))
    return Function(
        lambda a, b, *rest: np.asarray(call(Image.fromarray(a), Image.fromarray(b), *rest)),
        f"np.array({name}(Image.fromarray({{0}}), Image.fromarray({{1}}){numbers}))",
        _of_pillow,
        tool="blend",
    )


def _bitwise(name: str) -> Function:
    return Function(getattr(cv2, name), f"cv2.{name}({{0}}, {{1}})", _of_opencv, tool="blend")


#: Every function that a formula may hold, by name.
FUNCTIONS: dict[str, Function] = {
    "+": _operator(operator.add, "+"),
    "-": _operator(operator.sub, "-"),
    "*": _operator(operator.mul, "*"),
    "/": _operator(operator.truediv, "/"),
    "//": _operator(operator.floordiv, "//"),
    "%": _operator(operator.mod, "%"),
    "**": _operator(operator.pow, "**"),
    "&": _operator(operator.and_, "&"),
    "|": _operator(operator.or_, "|"),
    "<": _operator(operator.lt, "<"),
    "<=": _operator(operator.le, "<="),
    ">": _operator(operator.gt, ">"),
    ">=": _operator(operator.ge, ">="),
    "==": _operator(operator.eq, "=="),
    "!=": _operator(operator.ne, "!="),
    "negative": _point(operator.neg, "(-{0})"),
    "astype": _point(lambda array, name: array.astype(name), "{0}.astype({1})"),
    "np.clip": _point(np.clip, "np.clip({0}, {1}, {2})"),
    "np.where": _point(np.where, "np.where({0}, {1}, {2})"),
    **{
        f"np.{name}": _point(getattr(np, name), f"np.{name}({{0}})")
        for name in ("abs", "sqrt", "square", "log", "log1p", "exp", "round", "rint", "floor", "ceil")
    },
    **{
        f"np.{name}": _point(getattr(np, name), f"np.{name}({{0}}, {{1}})")
        for name in ("power", "minimum", "maximum", "hypot")
    },
    **{
        f"np.{name}": Function(getattr(np, name), f"np.{name}({{0}})", shape=_single) for name in ("min", "max", "mean")
    },
    "np.hstack": Function(lambda *arrays: np.hstack(arrays), "np.hstack([{all}])", _beside, tool="concatenate"),
    "np.vstack": Function(lambda *arrays: np.vstack(arrays), "np.vstack([{all}])", _below, tool="concatenate"),
    "cv2.merge": Function(lambda *arrays: cv2.merge(arrays), "cv2.merge([{all}])", _merged, tool="channel_swap"),
    "cv2.Sobel": _opencv(
        "Sobel",
        "{0}, {1}, {2}, {3}, ksize={4}",
        lambda a, depth, dx, dy, side: cv2.Sobel(a, depth, dx, dy, ksize=side),
        "edges",
    ),
    "cv2.Scharr": _opencv("Scharr", "{0}, {1}, {2}, {3}", cv2.Scharr, "edges"),
    "cv2.Laplacian": _opencv(
        "Laplacian", "{0}, {1}, ksize={2}", lambda a, depth, side: cv2.Laplacian(a, depth, ksize=side), "edges"
    ),
    "cv2.magnitude": _opencv("magnitude", "{0}, {1}", cv2.magnitude, "edges"),
    "cv2.convertScaleAbs": _opencv(
        "convertScaleAbs",
        "{0}, alpha={1}, beta={2}",
        lambda a, alpha, beta: cv2.convertScaleAbs(a, alpha=alpha, beta=beta),
    ),
    "cv2.normalize": _opencv(
        "normalize",
        "{0}, None, {1}, {2}, cv2.NORM_MINMAX",
        lambda a, alpha, beta: cv2.normalize(a, None, alpha, beta, cv2.NORM_MINMAX),  # type: ignore[call-overload]
        "autocontrast",
    ),
    "cv2.addWeighted": _opencv("addWeighted", "{0}, {1}, {2}, {3}, {4}", cv2.addWeighted, "blend"),
    **{f"cv2.{name}": _bitwise(name) for name in ("add", "subtract", "absdiff", "bitwise_and", "bitwise_or")},
    "Image.blend": _pillow("Image.blend", Image.blend, 1),
    **{
        f"ImageChops.{name}": _pillow(f"ImageChops.{name}", getattr(ImageChops, name))
        for name in ("add", "subtract", "multiply", "screen", "difference", "lighter", "darker")
    },
}


def may_warn(function: str, arguments: Sequence[Any], result: Shape) -> bool:
    """Whether NumPy may warn of what a function finds in its arguments, shapes and numbers.

    Arrays of integers overflow silently, and their sums, products and quotients with plain numbers are small.
    """
    shapes = [argument for argument in arguments if isinstance(argument, Shape)]
    is_whole = all(shape.dtype.kind in "biu" for shape in shapes)
    if function == "astype":
        return not (is_whole or result.dtype == np.float64)
    is_quotient = function == "/" and not isinstance(arguments[1], Shape) and arguments[1] != 0
    if is_whole and all(shape.size is not None for shape in shapes) and (is_quotient or function in _SILENT):
        return not all(number == 0 or 1e-9 < abs(number) < 1e9 for number in arguments if not isinstance(number, Shape))
    return function in _LOUD


_SILENT = {"+", "-", "*", "negative", "np.abs"}
_LOUD = {
    *_SILENT,
    *("/", "//", "%", "**"),
    *(f"np.{name}" for name in ("sqrt", "square", "log", "log1p", "exp", "power", "hypot")),
}
