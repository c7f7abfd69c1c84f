"""The expressions of a snippet, read over described pictures and constants; see `sandbox.lift`."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS
from sandbox.constants import MATH, NUMERIC, Constants
from sandbox.geometry import Size
from sandbox.image_calls import IMAGE_FUNCTIONS, IMAGE_METHODS, cut, enhance, make_enhancer, make_filter, turned
from sandbox.kinds import State
from sandbox.operations import OPERATIONS
from sandbox.symbols import Enhancer, KnownFaultError, Name, NotLiftableError, Picture, append

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

_KNOWN = {
    *("np.array", "np.asarray", "np.uint8", "Image.fromarray", "Image.Transpose", "Image.Resampling"),
    *(f"math.{name}" for name in MATH),
    *IMAGE_FUNCTIONS,
    *ARRAY_FUNCTIONS,
    *(name for name in OPERATIONS if name.startswith(("ImageFilter.", "ImageEnhance."))),
}
_CONSTANT_OWNERS: dict[str, Any] = {
    "cv2": cv2,
    "Image": Image,
    "Image.Transpose": Image.Transpose,
    "Image.Resampling": Image.Resampling,
}


class Expressions(Constants):
    """Values of expressions, in the interpreter's order of evaluation.

    Attributes:
        names: What each name of the snippet stands for.
        chosen: The picture behind `image` and `img`.
        line: Line of the statement or call that is being read.
    """

    def __init__(self, sizes: Sequence[Size], image_index: int, *, persists: bool) -> None:
        self._images = [Picture(index, (State(size),)) for index, size in enumerate(sizes)]
        self._persists = persists
        self.chosen = self._images[image_index]
        self.line = 1
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
        if path in NUMERIC or path in {f"math.{name}" for name in MATH} or path == "len":
            return self.number(path.removeprefix("math."), arguments, keywords)
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


_IMAGE_ATTRIBUTES = frozenset(dir(Image.new("RGB", (1, 1))))
