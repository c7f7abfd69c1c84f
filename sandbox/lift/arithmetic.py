"""How arithmetic on arrays of pixels is read: as formulas, which become pictures once they are bytes again."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from sandbox.geometry import Affine
from sandbox.lift.array_calls import without_target
from sandbox.lift.image_calls import parameter_of
from sandbox.lift.symbols import Name, NotLiftableError, Picture, Wide, append, bind
from sandbox.operations.arrays import DTYPES
from sandbox.operations.formula_functions import FUNCTIONS, Shape, may_warn
from sandbox.operations.formulas import MAX_PARTS, Formula, Leaf, describe, parts_of
from sandbox.operations.parameters import Parameter, is_integer
from sandbox.operations.table import OPERATIONS

#: The signs of operators, by the class of their node.
SIGNS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


_SERIALS = itertools.count(1)


def is_pixels(value: object) -> bool:
    """Whether the value is an array of pixels or computed from one."""
    return isinstance(value, Wide) or (isinstance(value, Picture) and value.is_array)


def dtype_of(value: object) -> str:
    """The name of a type of numbers."""
    name = value.path.removeprefix("np.") if isinstance(value, Name) else value
    name = {"float": "float64", "int": "int64"}.get(str(name), name)
    if name not in DTYPES:
        raise NotLiftableError("an array of another type")
    return str(name)


def compute(function: str, arguments: Sequence[Any], line: int) -> Picture | Wide:
    """What a function of `FUNCTIONS` gives: a picture where that is bytes, else something to compute with.

    Raises:
        NotLiftableError: It would fail, or what it is made of comes from two images or from different places.
    """
    formula = Formula(function, tuple(_argument(argument) for argument in arguments))
    shape = describe(formula, _shape) if parts_of(formula) <= MAX_PARTS else None
    if shape is None:
        raise NotLiftableError(f"arithmetic that is not read here ({function})")
    known = [argument.shape if isinstance(argument, Wide) else _shape(argument) or argument for argument in arguments]
    if may_warn(function, known, shape):
        formula = replace(formula, serial=next(_SERIALS))
    if shape.size is None or shape.dtype != np.uint8:
        return Wide(formula, shape)
    return _finished(formula, line)


def _argument(value: Any) -> Any:
    if isinstance(value, Wide):
        return value.formula
    if isinstance(value, Picture):  # as it is now, whatever is done to the object later
        return Picture(value.source, value.states, value.operations, is_array=True)
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        if isinstance(value, str) and value in DTYPES:
            return value
        raise NotLiftableError("arithmetic with what is no number")
    if isinstance(value, np.generic):  # it decides the type of a result where a number of Python does not
        raise NotLiftableError("a number of NumPy beside an array")
    return value


def _shape(leaf: Any) -> Shape | None:
    return Shape(leaf.state.size, is_gray=leaf.is_gray) if isinstance(leaf, Picture) else None


def _pictures(node: Any) -> list[Picture]:
    if isinstance(node, Formula):
        return [picture for part in node.arguments for picture in _pictures(part)]
    return [node] if isinstance(node, Picture) else []


def _finished(formula: Formula, line: int) -> Picture:
    pictures = _pictures(formula)
    first = pictures[0]
    if any(picture.source != first.source for picture in pictures):
        raise NotLiftableError("arithmetic with several images")
    n_common = 0
    for steps in zip(*(picture.operations for picture in pictures), strict=False):
        if any(step != steps[0] for step in steps):
            break
        n_common += 1
    if FUNCTIONS[formula.function].tool != "concatenate":
        for picture in pictures:
            _check_place(picture, n_common)
    base = Picture(first.source, first.states[: n_common + 1], first.operations[:n_common], is_array=True)
    finished = _with_leaves(formula, n_common)
    if parts_of(finished) > MAX_PARTS:
        raise NotLiftableError("long arithmetic")
    return append(base, "np.formula", (finished,), line)


def _check_place(picture: Picture, start: int) -> None:
    """Every operation from `start` on must leave each pixel in its place and read as an expression."""
    for operation, state in zip(picture.operations[start:], picture.states[start:], strict=False):
        kind = OPERATIONS[operation.name]
        if not kind.is_colour or "\n" in kind.template or kind.frame(operation.values, state.size) != Affine():
            raise NotLiftableError("arithmetic with an image whose pixels were moved")


def _with_leaves(node: Any, start: int) -> Any:
    if isinstance(node, Formula):
        return replace(node, arguments=tuple(_with_leaves(part, start) for part in node.arguments))
    return Leaf(node.operations[start:]) if isinstance(node, Picture) else node


def operate(sign: str, left: Any, right: Any, line: int) -> Any:
    """An operator between arrays of pixels, and numbers."""
    if not all(
        is_pixels(side) or (isinstance(side, int | float) and not isinstance(side, bool)) for side in (left, right)
    ):
        raise NotLiftableError("an operator on something else than numbers")
    if sign == "-" and left == 255 and isinstance(left, int) and isinstance(right, Picture):
        return append(right, "cv2.bitwise_not", (), line)
    return compute(sign, (left, right), line)


def _named(*names: str, **defaults: Any) -> tuple[Parameter, ...]:
    return tuple(parameter_of(name) for name in names) + tuple(
        Parameter(name, lambda _: True, value, by_name=True) for name, value in defaults.items()
    )


#: Functions that are read as formulas: by dotted name, the formula's function and the parameters.
READ: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "np.clip": ("np.clip", _named("a", "a_min", "a_max")),
    "np.where": ("np.where", _named("condition", "x", "y")),
    **{f"np.{name}": (f"np.{name}", _named("x")) for name in ("abs", "sqrt", "square", "log", "log1p", "exp")},
    **{f"np.{name}": (f"np.{name}", _named("x")) for name in ("round", "rint", "floor", "ceil")},
    "np.absolute": ("np.abs", _named("x")),
    **{f"np.{name}": (f"np.{name}", _named("x1", "x2")) for name in ("power", "minimum", "maximum", "hypot")},
    "np.add": ("+", _named("x1", "x2")),
    "np.subtract": ("-", _named("x1", "x2")),
    "np.multiply": ("*", _named("x1", "x2")),
    "np.divide": ("/", _named("x1", "x2")),
    "np.min": ("np.min", _named("a")),
    "np.amin": ("np.min", _named("a")),
    "np.max": ("np.max", _named("a")),
    "np.amax": ("np.max", _named("a")),
    "np.mean": ("np.mean", _named("a")),
    "cv2.Sobel": ("cv2.Sobel", _named("src", "ddepth", "dx", "dy", ksize=3)),
    "cv2.Scharr": ("cv2.Scharr", _named("src", "ddepth", "dx", "dy")),
    "cv2.Laplacian": ("cv2.Laplacian", _named("src", "ddepth", ksize=1)),
    "cv2.magnitude": ("cv2.magnitude", _named("x", "y")),
    "cv2.convertScaleAbs": ("cv2.convertScaleAbs", _named("src", alpha=1, beta=0)),
    "cv2.addWeighted": ("cv2.addWeighted", _named("src1", "alpha", "src2", "beta", "gamma")),
    **{f"cv2.{name}": (f"cv2.{name}", _named("src1", "src2")) for name in ("add", "subtract", "absdiff")},
    **{f"cv2.{name}": (f"cv2.{name}", _named("src1", "src2")) for name in ("bitwise_and", "bitwise_or")},
}
_DEPTHS = {-1, cv2.CV_8U, cv2.CV_16S, cv2.CV_32F, cv2.CV_64F}


def read_function(path: str, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture | Wide:
    """A call of one of `READ` with an array of pixels among its arguments."""
    function, parameters = READ[path]
    arguments, keywords, by_position = without_target(path, arguments, keywords)
    values = bind(parameters, arguments, keywords, by_position=by_position)
    for parameter, value in zip(parameters, values, strict=True):
        if parameter.name == "ddepth" and value not in _DEPTHS:
            raise NotLiftableError("a depth that is not read here")
        if parameter.name == "ksize" and not (isinstance(value, int) and 1 <= value <= 7):
            raise NotLiftableError("a kernel that is not read here")
    if function == "np.mean":
        return mean(values[0], line)
    return compute(function, values, line)


def mean(array: Any, line: int) -> Picture | Wide:
    """The mean of bytes, whose sum is exact in any order."""
    if not isinstance(array, Picture):
        raise NotLiftableError("a mean of numbers that are no bytes")
    return compute("np.mean", (array,), line)


def normalize(arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture | Wide:
    """`cv2.normalize` between two values."""
    parameters = (parameter_of("src"), parameter_of("dst"), *_named("alpha", "beta", "norm_type"))
    source, target, alpha, beta, kind = bind(parameters, arguments, keywords)
    if target is not None or kind != cv2.NORM_MINMAX:
        raise NotLiftableError("a normalization that is not read here")
    return compute("cv2.normalize", (source, alpha, beta), line)


def stacked(path: str, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture | Wide:
    """Arrays, or channels, put together."""
    name = "mv" if path == "cv2.merge" else "arrays" if path in {"np.concatenate", "np.stack"} else "tup"
    axis = {"np.concatenate": 0, "np.stack": 0}.get(path)
    parameters = (parameter_of(name), *(() if axis is None else (parameter_of("axis", axis),)))
    parts, *axes = bind(parameters, arguments, keywords)
    if not isinstance(parts, tuple | list) or not 2 <= len(parts) <= 8 or not all(map(is_pixels, parts)):
        raise NotLiftableError(f"a call of {path}")
    if not all(map(is_integer, axes)):
        raise NotLiftableError("an axis that is no integer")
    if path in {"cv2.merge", "np.dstack"} or (path == "np.stack" and axes[0] in (2, -1)):
        return merged(parts, line)
    if path in {"np.hstack", "np.vstack"}:
        return compute(path, parts, line)
    if path == "np.concatenate" and axes[0] in (0, 1):
        return compute("np.hstack" if axes[0] else "np.vstack", parts, line)
    raise NotLiftableError(f"a call of {path}")


def merged(parts: Sequence[Any], line: int) -> Picture | Wide:
    """Three gray pictures as the channels of one."""
    first = parts[0]
    if len(parts) == 3 and all(isinstance(part, Picture) and part.is_gray for part in parts):
        if all((part.source, part.operations) == (first.source, first.operations) for part in parts):
            array = Picture(first.source, first.states, first.operations, is_array=True)
            return append(array, "cv2.GRAY2RGB", (), line)
        return compute("cv2.merge", parts, line)
    raise NotLiftableError("channels that are not read here")


#: Functions that put arrays together.
STACKS = {"np.hstack", "np.vstack", "np.concatenate", "np.dstack", "np.stack", "cv2.merge"}


def split(picture: Picture, line: int) -> tuple[Picture, ...]:
    """The channels of a picture."""
    if picture.is_gray:
        return (Picture(picture.source, picture.states, picture.operations, is_array=picture.is_array),)
    return tuple(append(picture, "Image.getchannel", (channel,), line) for channel in range(3))


def blend(path: str, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    """`Image.blend` and the functions of `ImageChops` on two images."""
    names = ("im1", "im2", "alpha") if path == "Image.blend" else ("image1", "image2")
    values = bind(tuple(map(parameter_of, names)), arguments, keywords)
    if not all(isinstance(value, Picture) and not value.is_array for value in values[:2]):
        raise NotLiftableError(f"a call of {path}")
    if len(values) == 3 and not (isinstance(values[2], int | float) and -100 <= values[2] <= 100):
        raise NotLiftableError("an alpha that is not read here")
    found = compute(path, values, line)
    if not isinstance(found, Picture):
        raise NotLiftableError(f"a call of {path}")
    return found.as_image()


def _wide_type(owner: Picture | Wide, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture | Wide:
    (dtype,) = bind((parameter_of("dtype"),), arguments, keywords)
    name = dtype_of(dtype)
    if isinstance(owner, Picture) and name == "uint8":
        return Picture(owner.source, owner.states, owner.operations, is_array=True)
    return compute("astype", (owner, name), line)


def read_method(owner: Picture | Wide, name: str, arguments: list[Any], keywords: dict[str, Any], line: int) -> Any:
    """A method of an array of pixels that computes."""
    if name == "astype":
        return _wide_type(owner, arguments, keywords, line)
    if name == "clip":
        low, high = bind((parameter_of("min"), parameter_of("max")), arguments, keywords)
        return compute("np.clip", (owner, low, high), line)
    bind((), arguments, keywords)
    if name == "mean":
        return mean(owner, line)
    return owner if name == "copy" else compute(f"np.{name}", (owner,), line)


#: Methods of arrays of pixels that compute.
METHODS = {"astype", "clip", "min", "max", "mean"}
