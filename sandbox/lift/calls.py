"""Calls and attributes of a snippet: which reader takes them; see `image_calls`, `array_calls` and `arithmetic`."""

from __future__ import annotations

import ast
import math
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.lift import arithmetic
from sandbox.lift.arithmetic import is_pixels
from sandbox.lift.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS, equalized
from sandbox.lift.constants import MATH, NUMERIC
from sandbox.lift.grids import GRID_FUNCTIONS, NUMPY_NUMBERS, grid_method
from sandbox.lift.image_calls import IMAGE_FUNCTIONS, IMAGE_METHODS, parameter_of, turned
from sandbox.lift.image_objects import SHAPES, draw, enhance, make_canvas, make_enhancer, make_filter, paste
from sandbox.lift.subscripts import Subscripts
from sandbox.lift.symbols import (
    Canvas,
    Enhancer,
    Equalizer,
    Grid,
    KnownFaultError,
    Name,
    NotLiftableError,
    Pen,
    Picture,
    Wide,
    bind,
)
from sandbox.operations.arrays import DTYPES
from sandbox.operations.table import OPERATIONS

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
SUBMODULES = {"Image", "ImageOps", "ImageEnhance", "ImageFilter", "ImageDraw", "ImageChops"}
LIBRARIES = SUBMODULES | {"np", "cv2", "math", "PIL"}
BUILTINS = set(dir(__builtins__)) if not isinstance(__builtins__, dict) else set(__builtins__)

#: Times that a loop may run.
MAX_TURNS = 256

BLENDS = ("add", "subtract", "multiply", "screen", "difference", "lighter", "darker")
_KNOWN = {
    *("np.array", "np.asarray", "Image.fromarray", "Image.Transpose", "Image.Resampling", "Image.Transform"),
    *("Image.new", "Image.merge", "Image.blend", "ImageDraw.Draw", "cv2.createCLAHE", "cv2.split", "cv2.normalize"),
    *(f"np.{name}" for name in DTYPES),
    *(f"math.{name}" for name in MATH),
    *(f"ImageChops.{name}" for name in BLENDS),
    *arithmetic.READ,
    *arithmetic.STACKS,
    *GRID_FUNCTIONS,
    *NUMPY_NUMBERS,
    *IMAGE_FUNCTIONS,
    *ARRAY_FUNCTIONS,
    *(name for name in OPERATIONS if name.startswith(("ImageFilter.", "ImageEnhance."))),
}
_CONSTANT_OWNERS: dict[str, Any] = {
    "cv2": cv2,
    "Image": Image,
    "Image.Transpose": Image.Transpose,
    "Image.Resampling": Image.Resampling,
    "Image.Transform": Image.Transform,
}


#: Names that NumPy's functions show in their signatures and do not take as keywords, and one that is OpenCV's.
_BY_POSITION = {"x", "x1", "x2", "y", "condition", "arrays", "dst"}


class Calls(Subscripts):
    """Reads calls and attributes.

    Attributes:
        names: What each name of the snippet stands for.
    """

    names: dict[str, Any]

    def _read_attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        self.line = node.end_lineno or self.line
        if isinstance(owner, Picture):
            return self._picture_attribute(owner, node.attr)
        if isinstance(owner, Name):
            return self._library_attribute(owner, node.attr)
        if isinstance(owner, Canvas) and node.attr in {"size", "width", "height", "mode"}:
            width, height = owner.size
            return {"size": owner.size, "width": width, "height": height, "mode": owner.mode}[node.attr]
        if isinstance(owner, Wide) and owner.shape.size is not None and node.attr in {"shape", "ndim"}:
            shape = (*reversed(owner.shape.size), *(() if owner.shape.is_gray else (3,)))
            return shape if node.attr == "shape" else len(shape)
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
        if owner.path == "PIL" and name in SUBMODULES:
            return Name(name)
        path = f"{owner.path}.{name}"
        if path in {"math.pi", "np.pi"}:
            return math.pi
        if owner.path in _CONSTANT_OWNERS and (name.isupper() or name.startswith("COLOR_")):
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

    def _read_call(self, node: ast.Call) -> Any:
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise NotLiftableError("unpacked arguments")
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if isinstance(owner, _OBJECTS):
                return self._method(owner, node.func.attr, node)
            function = self._library_attribute(owner, node.func.attr) if isinstance(owner, Name) else None
        elif isinstance(node.func, ast.Name) and node.func.id not in self.names and node.func.id in BUILTINS:
            function = Name(node.func.id)
        else:
            function = self.value(node.func)
        if not isinstance(function, Name):
            raise NotLiftableError("a call that is not read here")
        arguments, keywords = self._arguments(node)
        if function.path.startswith("np.") and not _BY_POSITION.isdisjoint(keywords):
            raise NotLiftableError("an argument that NumPy takes by position only")
        return self._function(function.path, arguments, keywords)

    def _arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        arguments = [self.value(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        if len(keywords) < len(node.keywords):
            raise NotLiftableError("a keyword that stands twice")
        self.line = node.func.end_lineno or self.line
        return arguments, keywords

    def _method(self, owner: Any, name: str, node: ast.Call) -> Any:
        if isinstance(owner, Picture):
            return self._picture_method(owner, name, node)
        arguments, keywords = self._arguments(node)
        if isinstance(owner, Enhancer) and name == "enhance":
            return enhance(owner, arguments, keywords, self.line)
        if isinstance(owner, Pen) and name in SHAPES:
            return draw(owner, name, arguments, keywords, self.line)
        if isinstance(owner, Canvas) and name == "paste":
            return paste(owner, arguments, keywords, self.line)
        if isinstance(owner, Equalizer) and name == "apply":
            (picture,) = bind((parameter_of("src"),), arguments, keywords)
            return equalized(owner.values, picture, self.line)
        if isinstance(owner, Grid):
            return grid_method(owner, name, arguments, keywords)
        if isinstance(owner, Wide) and name in arithmetic.METHODS:
            return arithmetic.read_method(owner, name, arguments, keywords, self.line)
        raise NotLiftableError(f"the method {name} of {type(owner).__name__}")

    def _picture_method(self, owner: Picture, name: str, node: ast.Call) -> Any:
        methods = ARRAY_METHODS if owner.is_array else IMAGE_METHODS
        if name in methods:
            return methods[name](owner, *self._arguments(node), self.line)
        if owner.is_array and name in arithmetic.METHODS:
            return arithmetic.read_method(owner, name, *self._arguments(node), self.line)
        if not owner.is_array and name == "split":
            bind((), *self._arguments(node))
            return arithmetic.split(owner, self.line)
        self._check_attribute(owner, name)
        raise NotLiftableError(f"the method {name}")

    def _function(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if path.startswith("ImageFilter.") and path in OPERATIONS and OPERATIONS[path].parameters:
            return make_filter(path, arguments, keywords)
        if path.startswith("ImageEnhance.") and path in OPERATIONS:
            return make_enhancer(path, arguments, keywords)
        if path in NUMERIC or path in {f"math.{name}" for name in MATH} or path == "len":
            return self.number(path.removeprefix("math."), arguments, keywords)
        if path in {"range", "list", "tuple"}:
            return self._sequence(path, arguments, keywords)
        if path == "Image.new":
            return make_canvas(arguments, keywords)
        if path == "cv2.createCLAHE":
            return Equalizer(tuple(bind(OPERATIONS[path].parameters, arguments, keywords)))
        is_on_pixels = any(map(is_pixels, [*arguments, *keywords.values()]))
        if not is_on_pixels and path in NUMPY_NUMBERS and arguments and not keywords:
            return NUMPY_NUMBERS[path](arguments)
        if not is_on_pixels and path in GRID_FUNCTIONS and not (arguments and isinstance(arguments[0], Picture)):
            return GRID_FUNCTIONS[path](arguments, keywords)
        return self._pixel_function(path, arguments, keywords)

    def _pixel_function(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if path in arithmetic.STACKS:
            return arithmetic.stacked(path, arguments, keywords, self.line)
        if path == "Image.merge":
            mode, bands = bind((parameter_of("mode"), parameter_of("bands")), arguments, keywords)
            if mode != "RGB" or not isinstance(bands, tuple | list) or any(map(is_pixels, bands)):
                raise NotLiftableError("channels that are not read here")
            return _as_image(arithmetic.merged(bands, self.line))
        if path == "Image.blend" or (path.startswith("ImageChops.") and path != "ImageChops.invert"):
            return arithmetic.blend(path, arguments, keywords, self.line)
        if path == "cv2.normalize":
            return arithmetic.normalize(arguments, keywords, self.line)
        if not arguments or not isinstance(arguments[0], Picture | Wide):
            raise NotLiftableError(f"a call of {path}")
        return self._first_is_picture(path, arguments, keywords)

    def _first_is_picture(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        picture, rest = arguments[0], arguments[1:]
        if path in {"np.array", "np.asarray"}:
            return self._array(picture, rest, keywords)
        if path.removeprefix("np.") in DTYPES and is_pixels(picture) and not rest and not keywords:
            return arithmetic.read_method(picture, "astype", [path.removeprefix("np.")], {}, self.line)
        is_array = is_pixels(picture)
        if is_array and path in arithmetic.READ and (isinstance(picture, Wide) or path not in ARRAY_FUNCTIONS):
            return arithmetic.read_function(path, arguments, keywords, self.line)
        if not isinstance(picture, Picture):
            raise NotLiftableError(f"a call of {path}")
        if path == "ImageDraw.Draw" and not is_array and not rest and not keywords:
            return Pen(picture, picture.operations)
        if path == "cv2.split" and is_array and not rest and not keywords and not picture.is_gray:
            return arithmetic.split(picture, self.line)
        if path == "Image.fromarray" and is_array and not keywords and rest in ([], [picture.state.mode]):
            return picture.as_image()
        functions = ARRAY_FUNCTIONS if is_array else IMAGE_FUNCTIONS
        if path in functions:
            return functions[path](picture, rest, keywords, self.line)
        raise NotLiftableError(f"a call of {path}")

    def _array(self, picture: Picture | Wide, rest: list[Any], keywords: dict[str, Any]) -> Any:
        (dtype,) = bind((parameter_of("dtype", None),), rest, keywords)
        if isinstance(picture, Picture) and min(picture.state.size) < 1:
            raise NotLiftableError("an array without pixels")
        array = picture.as_array() if isinstance(picture, Picture) else picture
        return array if dtype is None else arithmetic.read_method(array, "astype", [dtype], {}, self.line)

    def _sequence(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if keywords or not arguments:
            raise NotLiftableError(f"a call of {name}")
        if name == "range":
            if not all(isinstance(part, int) and abs(part) < 10**6 for part in arguments) or len(arguments) > 3:
                raise NotLiftableError("a range that is not read here")
            return range(*arguments)
        if len(arguments) > 1 or not isinstance(arguments[0], tuple | list | range) or len(arguments[0]) > MAX_TURNS:
            raise NotLiftableError(f"a call of {name}")
        return list(arguments[0]) if name == "list" else tuple(arguments[0])


_OBJECTS = (Picture, Enhancer, Pen, Canvas, Equalizer, Grid, Wide)


def _as_image(value: Any) -> Picture:
    if not isinstance(value, Picture):
        raise NotLiftableError("channels that are not read here")
    return value.as_image()


_IMAGE_ATTRIBUTES = frozenset(dir(Image.new("RGB", (1, 1))))
