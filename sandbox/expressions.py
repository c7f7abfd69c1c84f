"""The expressions of a snippet, read over described pictures and constants; see `sandbox.lift`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS
from sandbox.geometry import Size
from sandbox.image_calls import IMAGE_FUNCTIONS, IMAGE_METHODS, cut, enhance, make_enhancer, make_filter, turned
from sandbox.kinds import State
from sandbox.operations import OPERATIONS
from sandbox.symbols import Enhancer, Filter, KnownFaultError, Name, NotLiftableError, Picture, Unknown, append

#: Names that a snippet finds besides its images, in every lane.
PROVIDED = (
    *(
        "Image",
        "ImageOps",
        "ImageEnhance",
        "ImageFilter",
        "ImageDraw",
        "ImageFont",
        "ImageChops",
        "ImageStat",
        "ImageColor",
    ),
    *("np", "numpy", "cv2", "math", "PIL"),
)
_SUBMODULES = {"Image", "ImageOps", "ImageEnhance", "ImageFilter"}
_LIBRARIES = _SUBMODULES | {"np", "cv2", "math", "PIL"}
_BUILTINS = set(dir(__builtins__)) if not isinstance(__builtins__, dict) else set(__builtins__)

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NUMERIC: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
}
_MATH: dict[str, Callable[..., Any]] = {
    name: getattr(math, name)
    for name in ("floor", "ceil", "sqrt", "radians", "degrees", "sin", "cos", "tan", "hypot", "atan2")
}
_KNOWN = {
    *("np.array", "np.asarray", "np.uint8", "Image.fromarray", "Image.Transpose", "Image.Resampling"),
    *(f"math.{name}" for name in _MATH),
    *IMAGE_FUNCTIONS,
    *ARRAY_FUNCTIONS,
    *(name for name in OPERATIONS if name.startswith(("ImageFilter.", "ImageEnhance."))),
}
_MAX_NUMBER = 1e15
_MAX_TEXT = 4096
#: Elements that a constant may have, its parts' elements among them: names can double it line by line.
_MAX_ELEMENTS = 256
_CONSTANT_OWNERS: dict[str, Any] = {
    "cv2": cv2,
    "Image": Image,
    "Image.Transpose": Image.Transpose,
    "Image.Resampling": Image.Resampling,
}


def _check_small(elements: Sequence[Any], seen: int = 0) -> int:
    for element in elements:
        seen = _check_small(element, seen + 1) if isinstance(element, tuple | list) else seen + 1
        if seen > _MAX_ELEMENTS:
            raise NotLiftableError("a large constant")
    return seen


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float)


class Expressions:
    """Values of expressions, in the interpreter's order of evaluation.

    Attributes:
        names: What each name of the snippet stands for.
        chosen: The picture behind `image` and `img`.
        line: Line of the statement or call that is being read.
        text: What was printed so far.
    """

    def __init__(self, sizes: Sequence[Size], image_index: int, *, persists: bool) -> None:
        self._images = [Picture(index, (State(size),)) for index, size in enumerate(sizes)]
        self._persists = persists
        self.chosen = self._images[image_index]
        self.line = 1
        self.text = ""
        self.names: dict[str, Any] = {name: Name("np" if name == "numpy" else name) for name in _LIBRARIES | {"numpy"}}
        self.names |= {"image": self.chosen, "img": self.chosen, "images": self._images}
        self.names |= {f"image_{index}": picture for index, picture in enumerate(self._images)}

    def value(self, node: ast.expr) -> Any:
        """What the expression gives.

        Raises:
            NotLiftableError: Where that is not certain.
            KnownFaultError: Where it raises.
            DoomedError: Where a library call raises.
        """
        reader = getattr(self, f"_read_{type(node).__name__.lower()}", None)
        if reader is None:
            raise NotLiftableError(f"an expression of kind {type(node).__name__}")
        return reader(node)

    def truth(self, value: Any) -> bool:
        """Whether a constant is true."""
        if isinstance(value, Picture | Name | Filter | Enhancer | Unknown) or value is self._images:
            raise NotLiftableError("a condition that only a run can tell")
        return bool(value)

    def _read_constant(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, bool | str | float):
            return node.value
        if isinstance(node.value, int):
            return self._bounded(node.value)
        raise NotLiftableError(f"a constant of type {type(node.value).__name__}")

    def _bounded(self, value: Any) -> Any:
        if not _is_plain(value) or (isinstance(value, int) and abs(value) > _MAX_NUMBER):
            raise NotLiftableError("a number that is not read here")
        return value

    def _read_tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts))

    def _read_list(self, node: ast.List) -> list[Any]:
        return self._elements(node.elts)

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        elements = [self.value(node) for node in nodes]
        _check_small(elements)
        return elements

    def _read_name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if (
            node.id in PROVIDED
            or node.id in _BUILTINS
            or node.id.startswith("__")
            or node.id == "draw"
            or self._persists
        ):
            raise NotLiftableError(f"the name {node.id}")
        raise KnownFaultError("NameError", f"name {node.id!r} is not defined")

    def _read_unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return not self.truth(value)
        if not _is_plain(value) or isinstance(node.op, ast.Invert):
            raise NotLiftableError("an operator on something else than a number")
        return -value if isinstance(node.op, ast.USub) else +value

    def _read_binop(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        if not _is_plain(left) or not _is_plain(right) or type(node.op) not in _BINARY:
            raise NotLiftableError("an operator on something else than numbers")
        try:
            return self._bounded(_BINARY[type(node.op)](left, right))
        except (ZeroDivisionError, OverflowError) as error:
            raise KnownFaultError(type(error).__name__, str(error)) from None

    def _read_compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for comparison, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.value(comparator)
            if not all(isinstance(side, int | float | str | tuple) for side in (left, right)):
                raise NotLiftableError("a comparison of something else than constants")
            if type(comparison) not in _COMPARE or self._holds_symbol(left) or self._holds_symbol(right):
                raise NotLiftableError("a comparison that is not read here")
            try:
                if not _COMPARE[type(comparison)](left, right):
                    return False
            except TypeError:
                raise NotLiftableError("a comparison of different types") from None
            left = right
        return True

    def _holds_symbol(self, value: object) -> bool:
        if isinstance(value, tuple | list):
            return any(self._holds_symbol(part) for part in value)
        return not (value is None or isinstance(value, bool | int | float | str))

    def _read_boolop(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for operand in node.values:
            value = self.value(operand)
            if self.truth(value) != isinstance(node.op, ast.And):
                break
        return value

    def _read_ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.truth(self.value(node.test)) else node.orelse)

    def _read_joinedstr(self, node: ast.JoinedStr) -> str:
        text = "".join(self._piece(part) for part in node.values)
        if len(text) > _MAX_TEXT:
            raise NotLiftableError("much text")
        return text

    def _piece(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if not isinstance(node, ast.FormattedValue) or node.conversion != -1 or node.format_spec is not None:
            raise NotLiftableError("a formatted string that is not read here")
        return str(self._printable(self.value(node.value)))

    def _printable(self, value: Any) -> Any:
        if value is self._images or self._holds_symbol(value):
            raise NotLiftableError("printing something else than constants")
        return value

    def print(self, node: ast.Call) -> None:
        """Read a call of `print` with constants."""
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise NotLiftableError("print with keywords")
        self.text += " ".join(str(self._printable(self.value(argument))) for argument in node.args) + "\n"
        if len(self.text) > _MAX_TEXT:
            raise NotLiftableError("much text")

    def _read_attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        self.line = node.end_lineno or self.line
        if isinstance(owner, Picture):
            return self._picture_attribute(owner, node.attr)
        if isinstance(owner, Name):
            return self._library_attribute(owner, node.attr)
        raise NotLiftableError(f"the attribute {node.attr}")

    def _picture_attribute(self, picture: Picture, name: str) -> Any:
        (width, height), channels = picture.state.size, () if picture.is_gray else (3,)
        if picture.is_array:
            if name == "T" and picture.is_gray:
                return turned(picture, "transpose", self.line)
            known: dict[str, Any] = {"shape": (height, width, *channels), "ndim": 2 + len(channels)}
        else:
            known = {"size": picture.state.size, "width": width, "height": height, "mode": picture.state.mode}
        if name in known:
            return known[name]
        self._check_attribute(picture, name)
        raise NotLiftableError(f"the attribute {name}")

    def _check_attribute(self, picture: Picture, name: str) -> None:
        if picture.is_array and not hasattr(np.ndarray, name):
            raise KnownFaultError("AttributeError", f"'numpy.ndarray' object has no attribute {name!r}")
        if not picture.is_array and name not in _IMAGE_ATTRIBUTES:
            raise KnownFaultError("AttributeError", f"'Image' object has no attribute {name!r}")

    def _library_attribute(self, owner: Name, name: str) -> Any:
        if owner.path == "PIL" and name in _SUBMODULES:
            return Name(name)
        path = f"{owner.path}.{name}"
        if path in {"math.pi", "np.pi"}:
            return math.pi
        if owner.path in _CONSTANT_OWNERS and name.isupper():
            return self._constant(_CONSTANT_OWNERS[owner.path], name, path)
        if path not in _KNOWN:
            raise NotLiftableError(path)
        return Name(path)

    def _constant(self, owner: Any, name: str, path: str) -> Any:
        """The integer behind an upper-case name of a library; other objects stay names."""
        try:
            value = getattr(owner, name)
        except AttributeError as error:
            raise KnownFaultError("AttributeError", str(error)) from None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value) if isinstance(value, int) else value
        return Name(path)

    def _read_subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        if isinstance(owner, Picture) and owner.is_array:
            return self._sliced(owner, node.slice)
        if not isinstance(owner, tuple | list):
            raise NotLiftableError("a subscript that is not read here")
        index = self._slice(node.slice) if isinstance(node.slice, ast.Slice) else self.value(node.slice)
        if not isinstance(index, slice) and (not isinstance(index, int) or isinstance(index, bool)):
            raise NotLiftableError("an index that is no integer")
        try:
            return owner[index]
        except IndexError as error:
            raise KnownFaultError("IndexError", str(error)) from None

    def _slice(self, node: ast.Slice) -> slice:
        bounds = [None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)]
        if any(bound is not None and (not isinstance(bound, int) or isinstance(bound, bool)) for bound in bounds):
            raise NotLiftableError("a slice with bounds that are no integers")
        return slice(*bounds)

    def _sliced(self, picture: Picture, node: ast.expr) -> Picture:
        """A crop, a flip or a swap of channels by slices of an array."""
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        n_axes = 2 if picture.is_gray else 3
        ellipses = [i for i, part in enumerate(parts) if isinstance(part, ast.Constant) and part.value is Ellipsis]
        slices = [self._slice(part) for part in parts if isinstance(part, ast.Slice)]
        if len(slices) + len(ellipses) != len(parts) or len(ellipses) > 1 or len(slices) > n_axes:
            raise NotLiftableError("an index of an array that is no slice")
        before = ellipses[0] if ellipses else len(slices)
        slices[before:before] = [slice(None)] * (n_axes - len(slices))
        width, height = picture.state.size
        top, bottom, flips_rows = self._span(slices[0], height)
        left, right, flips_columns = self._span(slices[1], width)
        if (left, top, right, bottom) != (0, 0, width, height):
            picture = cut(picture, (left, top, right, bottom), self.line)
        orientation = {
            (False, False): "identity",
            (True, False): "flip_vertical",
            (False, True): "flip_horizontal",
        }.get((flips_rows, flips_columns), "rotate_180")
        picture = turned(picture, orientation, self.line)
        return picture if n_axes == 2 else self._channels(picture, slices[2])

    def _span(self, part: slice, length: int) -> tuple[int, int, bool]:
        start, stop, step = part.indices(length)
        if step not in (1, -1) or (stop - start) * step <= 0:
            raise NotLiftableError("a slice that skips pixels or holds none")
        return (start, stop, False) if step == 1 else (stop + 1, start + 1, True)

    def _channels(self, picture: Picture, part: slice) -> Picture:
        start, stop, step = part.indices(3)
        if (start, stop, step) == (0, 3, 1):
            return picture
        if (start, stop, step) == (2, -1, -1):
            return append(picture, "cv2.RGB2BGR", (), self.line)
        raise NotLiftableError("a slice of channels")

    def _read_call(self, node: ast.Call) -> Any:
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise NotLiftableError("unpacked arguments")
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if isinstance(owner, Picture | Enhancer):
                return self._method(owner, node.func.attr, node)
            function = self._library_attribute(owner, node.func.attr) if isinstance(owner, Name) else None
        elif isinstance(node.func, ast.Name) and node.func.id not in self.names and node.func.id in _BUILTINS:
            function = Name(node.func.id)
        else:
            function = self.value(node.func)
        if not isinstance(function, Name):
            raise NotLiftableError("a call that is not read here")
        return self._function(function.path, *self._arguments(node))

    def _arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        arguments = [self.value(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        self.line = node.func.end_lineno or self.line
        return arguments, keywords

    def _method(self, owner: Picture | Enhancer, name: str, node: ast.Call) -> Any:
        if isinstance(owner, Enhancer):
            if name != "enhance":
                raise NotLiftableError(f"the method {name} of an enhancer")
            return enhance(owner, *self._arguments(node), self.line)
        methods = ARRAY_METHODS if owner.is_array else IMAGE_METHODS
        if name not in methods:
            self._check_attribute(owner, name)
            raise NotLiftableError(f"the method {name}")
        return methods[name](owner, *self._arguments(node), self.line)

    def _function(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if path.startswith("ImageFilter.") and path in OPERATIONS and OPERATIONS[path].parameters:
            return make_filter(path, arguments, keywords)
        if path.startswith("ImageEnhance.") and path in OPERATIONS:
            return make_enhancer(path, arguments, keywords)
        if path in _NUMERIC or path in {f"math.{name}" for name in _MATH} or path == "len":
            return self._number(path.removeprefix("math."), arguments, keywords)
        if not arguments or not isinstance(arguments[0], Picture):
            raise NotLiftableError(f"a call of {path}")
        picture, rest = arguments[0], arguments[1:]
        if path in {"np.array", "np.asarray"} and not rest and not keywords and min(picture.state.size) > 0:
            return picture.as_array()
        if path == "Image.fromarray" and picture.is_array and not rest and not keywords:
            return picture.as_image()
        functions = ARRAY_FUNCTIONS if picture.is_array else IMAGE_FUNCTIONS
        if path in functions:
            return functions[path](picture, rest, keywords, self.line)
        raise NotLiftableError(f"a call of {path}")

    def _number(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name == "len" and len(arguments) == 1 and isinstance(arguments[0], tuple | list) and not keywords:
            return len(arguments[0])
        if keywords or not arguments or not all(map(_is_plain, arguments)):
            raise NotLiftableError(f"a call of {name}")
        if name == "round" and len(arguments) == 2 and not (isinstance(arguments[1], int) and abs(arguments[1]) <= 20):
            raise NotLiftableError("a rounding that is not read here")
        function = _NUMERIC.get(name) or _MATH[name]
        try:
            return self._bounded(function(*arguments))
        except (ValueError, OverflowError) as error:
            raise KnownFaultError(type(error).__name__, str(error)) from None
        except TypeError:
            raise NotLiftableError(f"a call of {name}") from None


_IMAGE_ATTRIBUTES = frozenset(dir(Image.new("RGB", (1, 1))))
