"""The expressions of a snippet, read over described pictures and constants; see `sandbox.lift`."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox import arithmetic
from sandbox.arithmetic import SIGNS, is_pixels
from sandbox.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS, equalized
from sandbox.constants import MATH, NUMERIC, Constants, check_small
from sandbox.formulas import Leaf, parts_of, serials_of
from sandbox.geometry import Size
from sandbox.grids import GRID_FUNCTIONS, NUMPY_NUMBERS, grid_method, item, operate_on_grids
from sandbox.image_calls import (
    IMAGE_FUNCTIONS,
    IMAGE_METHODS,
    SHAPES,
    cut,
    draw,
    enhance,
    make_canvas,
    make_enhancer,
    make_filter,
    parameter_of,
    paste,
    turned,
)
from sandbox.kinds import Operation, State
from sandbox.operations import OPERATIONS
from sandbox.symbols import (
    Canvas,
    Closure,
    DoomedError,
    Enhancer,
    Equalizer,
    Grid,
    KnownFaultError,
    Name,
    NotLiftableError,
    Pen,
    Picture,
    Wide,
    append,
    bind,
)
from sandbox.tables import DTYPES

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
_SUBMODULES = {"Image", "ImageOps", "ImageEnhance", "ImageFilter", "ImageDraw", "ImageChops"}
_LIBRARIES = _SUBMODULES | {"np", "cv2", "math", "PIL"}
_BUILTINS = set(dir(__builtins__)) if not isinstance(__builtins__, dict) else set(__builtins__)

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
#: Times that a loop may run.
MAX_TURNS = 256
#: Values that may be computed while reading, large ones counted several times.
_MAX_PARTS = 20_000


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
        self._n_parts = 0
        self._serials: set[int] = set()
        self._is_within = False
        self.chosen = self._images[image_index]
        self.line = 1
        self.names: dict[str, Any] = {name: Name("np" if name == "numpy" else name) for name in _LIBRARIES | {"numpy"}}
        self.names |= {"image": self.chosen, "img": self.chosen, "images": self._images}
        self.names |= {f"image_{index}": picture for index, picture in enumerate(self._images)}
        self.names["draw"] = Pen(self.chosen, self.chosen.operations)

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
        value = reader(node)
        self._n_parts += 1
        if isinstance(value, Wide):
            self._n_parts += 10 * parts_of(value.formula)
            self._serials.add(value.formula.serial)
        elif isinstance(value, Picture):
            self._n_parts += 10 + len(value.operations) // 16
            if value.operations and value.operations[-1].name == "np.formula":
                self._serials.add(value.operations[-1].values[0].serial)
        if self._n_parts > _MAX_PARTS:
            raise NotLiftableError("a long computation")
        return value

    def check_quiet(self, operations: Sequence[Operation]) -> None:
        """Every computation of which NumPy may warn must be part of some operations: what is not run does not warn.

        Raises:
            NotLiftableError: One is not.
        """
        if not self._serials <= {0} | serials_of(Leaf(tuple(operations))):
            raise NotLiftableError("a computation that is not used")

    def _read_name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            value = self.names[node.id]
            return value.picture if isinstance(value, Canvas) and value.picture is not None else value
        if node.id in {"int", "float"}:
            return Name(node.id)
        if node.id in PROVIDED or node.id in _BUILTINS or node.id.startswith("__") or self._persists:
            raise NotLiftableError(f"the name {node.id}")
        raise KnownFaultError("NameError", f"name {node.id!r} is not defined")

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
        if owner.path == "PIL" and name in _SUBMODULES:
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

    def _read_subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        if isinstance(owner, Picture) and owner.is_array:
            return self._sliced(owner, node.slice)
        if isinstance(owner, Grid):
            return item(owner, self.value(node.slice))
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
        if n_axes == 3 and len(parts) > 1 and not isinstance(parts[-1], ast.Slice):
            last = self.value(parts[-1]) if not isinstance(parts[-1], ast.Constant) else parts[-1].value
            is_whole = len(parts) == 3 or (isinstance(parts[0], ast.Constant) and parts[0].value is Ellipsis)
            if isinstance(last, int) and not isinstance(last, bool) and -3 <= last < 3 and is_whole:
                rest = ast.Tuple([*parts[:-1], ast.Slice()], ast.Load())
                return append(self._sliced(picture, rest), "Image.getchannel", (last % 3,), self.line)
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
            if isinstance(owner, _OBJECTS):
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

    def operate(self, sign: ast.operator | ast.cmpop | ast.unaryop, left: Any, right: Any) -> Any:
        """An operator with an array on a side; see `Constants.operate` for others."""
        if isinstance(left, Grid) or isinstance(right, Grid):
            return operate_on_grids(sign, left, right)
        if isinstance(sign, ast.Invert) and isinstance(left, Picture) and left.is_array:
            return append(left, "cv2.bitwise_not", (), self.line)
        if isinstance(sign, ast.USub) and is_pixels(left):
            return arithmetic.compute("negative", (left,), self.line)
        if (is_pixels(left) or is_pixels(right)) and type(sign) in SIGNS:
            return arithmetic.operate(SIGNS[type(sign)], left, right, self.line)
        return super().operate(sign, left, right)

    def _read_lambda(self, node: ast.Lambda) -> Closure:
        names, self.is_plain = node.args, False
        if (
            self._is_within  # its names would be those of the last turn
            or len(names.args) != 1
            or names.posonlyargs
            or names.kwonlyargs
            or names.vararg
            or names.kwarg
            or names.defaults
        ):
            raise NotLiftableError("a function of several arguments")
        return Closure(lambda value: self._with_name(names.args[0].arg, value, node.body))

    def _with_name(self, name: str, value: Any, body: ast.expr) -> Any:
        """What an expression gives where `name` stands for `value`; a fault in it has a line of its own."""
        hidden, is_within = self.names.get(name, _NOTHING), self._is_within
        self.names[name], self._is_within = value, True
        try:
            return self.value(body)
        except (KnownFaultError, DoomedError):
            raise NotLiftableError("a fault in a line of its own") from None
        finally:
            self._is_within = is_within
            if hidden is _NOTHING:
                del self.names[name]
            else:
                self.names[name] = hidden

    def turns(self, node: ast.expr) -> list[Any]:
        """What a loop goes over."""
        value = self.value(node)
        if isinstance(value, Grid):
            value = list(value.array) if value.array.ndim == 1 else None
        if not isinstance(value, tuple | list | range) or len(value) > MAX_TURNS:
            raise NotLiftableError("a loop that is not read here")
        return list(value)

    def _read_listcomp(self, node: ast.ListComp) -> list[Any]:
        (loop,) = node.generators if len(node.generators) == 1 else (None,)
        if loop is None or loop.ifs or loop.is_async or not isinstance(loop.target, ast.Name):
            raise NotLiftableError("a list that is not read here")
        self.is_plain = False
        elements = [self._with_name(loop.target.id, value, node.elt) for value in self.turns(loop.iter)]
        check_small(elements)
        return elements


_NOTHING = object()
_OBJECTS = (Picture, Enhancer, Pen, Canvas, Equalizer, Grid, Wide)


def _as_image(value: Any) -> Picture:
    if not isinstance(value, Picture):
        raise NotLiftableError("channels that are not read here")
    return value.as_image()


_IMAGE_ATTRIBUTES = frozenset(dir(Image.new("RGB", (1, 1))))
