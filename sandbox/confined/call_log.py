"""Logs, in a worker, the library calls that a snippet makes, and writes them down as a straight-line snippet: a claim.

The code owns this process and can write into the log what it likes. A claim proves nothing: the trainer reads it, runs
it again by its own operations and compares the pixels (`sandbox.effects.proof`).

Functions are replaced by wrappers that call them, before workers are forked. Objects are known by weak references, so
that they live no longer than without the log. NumPy's slices, turns and mirrors are views, which tell by themselves
where they lie in the array that they show.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
import gc
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

#: Calls that are logged, elements of a literal argument, and characters of a claim; beyond, there is none.
_MAX_CALLS, _MAX_ELEMENTS, _MAX_CHARS = 256, 1024, 4096

_IMAGE_METHODS = (
    *("rotate", "transpose", "crop", "resize", "convert", "filter", "copy", "transform", "getchannel", "split"),
    *("thumbnail", "paste"),
)
_SHAPES = ("rectangle", "ellipse", "line")
_FUNCTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Image": (Image, ("fromarray", "new", "blend", "merge")),
    "ImageChops": (ImageChops, ("invert", "add", "subtract", "multiply", "screen", "difference", "lighter", "darker")),
    "ImageOps": (
        ImageOps,
        (
            *("mirror", "flip", "grayscale", "exif_transpose", "autocontrast", "equalize", "invert", "posterize"),
            *("solarize", "expand", "pad"),  # the calls that others make are logged themselves
        ),
    ),
    "np": (np, ("array", "asarray", "ascontiguousarray", "copy")),
    "cv2": (
        cv2,
        (
            *("resize", "rotate", "flip", "transpose", "warpAffine", "copyMakeBorder", "cvtColor", "split", "merge"),
            *("GaussianBlur", "blur", "medianBlur", "bilateralFilter", "filter2D", "erode", "dilate", "morphologyEx"),
            *("threshold", "adaptiveThreshold", "Canny", "Sobel", "Scharr", "Laplacian", "magnitude", "normalize"),
            *("convertScaleAbs", "equalizeHist", "LUT", "add", "subtract", "absdiff", "addWeighted"),
            *("bitwise_not", "bitwise_and", "bitwise_or", "fastNlMeansDenoising", "fastNlMeansDenoisingColored"),
            "createCLAHE",
        ),
    ),
}
#: The attributes of a filter that are its arguments.
_FILTERS: dict[type, tuple[str, ...]] = {
    ImageFilter.GaussianBlur: ("radius",),
    ImageFilter.BoxBlur: ("radius",),
    ImageFilter.UnsharpMask: ("radius", "percent", "threshold"),
    ImageFilter.MedianFilter: ("size",),
    ImageFilter.MinFilter: ("size",),
    ImageFilter.MaxFilter: ("size",),
    ImageFilter.ModeFilter: ("size",),
    ImageFilter.RankFilter: ("size", "rank"),
}
#: OpenCV's border of each mode of `np.pad`.
_BORDERS = {"constant": 0, "edge": 1, "symmetric": 2, "reflect": 4}
_TYPES: dict[Any, str] = {
    kind: f"np.{kind.__name__}" for kind in (np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64)
}
_TYPES |= {int: "int", float: "float"}


class _OpaqueError(Exception):
    """An argument that cannot be written as a literal."""


@dataclass
class _Call:
    """A line of the log, with the names that it gives a value or changes, and those that it uses."""

    text: str
    writes: str
    reads: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Owner:
    """An array that owns its memory: what locates views of it."""

    array: weakref.ref[Any]
    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class CallLog:
    """The calls of one request."""

    def __init__(self) -> None:
        self.is_busy = True
        self.begin([], 0)

    def begin(self, images: list[Image.Image], chosen: int) -> None:
        """Forget everything; `images` are what the code is shown."""
        self._calls: list[_Call] = []
        self._known: dict[int, tuple[Callable[[], Any], str]] = {}
        self._owners: dict[int, _Owner] = {}
        self._pens: dict[str, str] = {}
        self._last = ""
        self._n_tried = 0
        for index, image in enumerate(images):
            self._remember(image, "image" if index == chosen else f"images[{index}]")
        self.is_busy = not images

    def end(self, result: Any) -> str:
        """The claim of how `result` was made, "" if there is none. Without a known result it leads to the last image.

        Nothing is logged after it.
        """
        self.is_busy, claim = True, ""
        with contextlib.suppress(Exception):
            claim = self._written(self._name_of(result) or self._last)
        self.begin([], 0)
        return claim if len(claim) <= _MAX_CHARS else ""

    def _written(self, name: str) -> str:
        if not name:
            return ""
        needed, lines = {name}, [f"result = {name}"]
        for call in reversed(self._calls):
            if call.writes in needed:
                needed |= call.reads
                lines.append(call.text)
        return "\n".join(reversed(lines))

    def note(self, path: str, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        """Add a call of a function, or a method of the first argument (`path` begins with a dot)."""
        self._n_tried += 1
        if len(self._calls) >= _MAX_CALLS or self._n_tried > 8 * _MAX_CALLS:
            self.is_busy = True
            return
        reads: set[str] = set()
        texts = [self.text(argument, reads) for argument in arguments]
        texts += [f"{name}={self.text(value, reads)}" for name, value in keywords.items()]
        if not reads and path not in ("Image.new", "cv2.createCLAHE"):
            return
        if path.startswith("."):
            owner, *texts = texts
            path = owner + path
        text = f"{path}({', '.join(texts)})"
        if result is None:
            self._calls.append(_Call(text, self._pens.get(owner, owner), reads))
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                self.define(part, f"{text}[{index}]", reads)
        elif not any(result is argument for argument in arguments):
            self.define(result, text, reads)
            if path == "ImageDraw.Draw":
                self._pens[f"v{len(self._calls)}"] = texts[0]

    def define(self, value: Any, text: str, reads: set[str]) -> str:
        """Add a call that made `value`, if that is an object that others are made of; its name."""
        name = f"v{len(self._calls) + 1}"
        if isinstance(value, Image.Image | np.ndarray):
            self._last = name
        elif not isinstance(value, ImageDraw.ImageDraw | cv2.CLAHE):
            return ""
        self._calls.append(_Call(f"{name} = {text}", name, reads))
        self._remember(value, name)
        return name

    def _remember(self, value: Any, name: str) -> None:
        try:
            reference: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            reference = functools.partial(_itself, value)
        self._known[id(value)] = reference, name
        if type(value) is np.ndarray and value.flags.c_contiguous and not isinstance(value.base, np.ndarray):
            address = value.__array_interface__["data"][0]
            self._owners[id(value)] = _Owner(weakref.ref(value), name, address, value.shape, value.strides, value.dtype)

    def _name_of(self, value: Any) -> str:
        reference, name = self._known.get(id(value), (None, ""))
        if reference is not None and reference() is value:
            return name
        if type(value) is not np.ndarray or value.base is None:
            return ""
        owner = self._owners.get(id(value.base))
        if owner is None or owner.array() is not value.base:
            return ""
        text = _view(value, owner)
        return owner.name if text == owner.name else self.define(value, text, {owner.name}) if text else ""

    def text(self, value: Any, reads: set[str]) -> str:
        """A value as Python.

        Raises:
            _OpaqueError: It is neither a known object nor a literal.
        """
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return _short(repr(value))
        if name := self._name_of(value):
            reads.add(name)
            return name
        if kind in (tuple, list) and len(value) <= _MAX_ELEMENTS:
            inner = ", ".join([self.text(part, reads) for part in value])
            return f"[{inner}]" if kind is list else f"({inner},)" if len(value) == 1 else f"({inner})"
        return _literal(value)


def _itself(value: Any) -> Any:
    return value


def _short(text: str) -> str:
    if len(text) > _MAX_CHARS:
        raise _OpaqueError
    return text


def _literal(value: Any) -> str:
    """An object of a library as Python."""
    if isinstance(value, enum.IntEnum):
        return repr(int(value))
    if isinstance(value, np.integer | np.floating):
        return repr(value.item())
    if isinstance(value, np.dtype):
        value = value.type
    if isinstance(value, np.ndarray):
        if value.size > _MAX_ELEMENTS or value.dtype.type not in _TYPES:
            raise _OpaqueError
        return f"np.array({value.tolist()!r}, dtype={_TYPES[value.dtype.type]})"
    kind = value if isinstance(value, type) else type(value)
    if value is kind and kind in _TYPES:
        return _TYPES[kind]
    if kind is ImageFilter.Kernel:
        size, scale, offset, kernel = value.filterargs
        return f"ImageFilter.Kernel({size!r}, {tuple(kernel)!r}, {scale!r}, {offset!r})"
    if issubclass(kind, ImageFilter.BuiltinFilter) and kind.__module__ == "PIL.ImageFilter":
        return f"ImageFilter.{kind.__name__}"
    if kind in _FILTERS and value is not kind:
        return f"ImageFilter.{kind.__name__}({', '.join(repr(getattr(value, name)) for name in _FILTERS[kind])})"
    raise _OpaqueError


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _view(view: Any, owner: _Owner) -> str:
    """A view of an array as Python, "" if it is none of slices, turns and mirrors."""
    if view.dtype != owner.dtype or not 2 <= view.ndim <= len(owner.shape) <= 3 or 0 in view.shape:
        return ""
    starts = np.unravel_index((_address(view) - owner.address) // view.itemsize, owner.shape)
    left, order, parts = list(range(len(owner.shape))), [], [":"] * len(owner.shape)
    axes = [(axis, length, step) for axis, (length, step) in enumerate(zip(view.shape, view.strides, strict=True))]
    order = [-1] * view.ndim
    for axis, length, step in sorted(axes, key=lambda each: each[1] == 1):  # the step of one element says nothing
        fitting = [each for each in left if abs(step) == owner.strides[each] or length == 1]
        if not fitting:
            return ""
        found = axis if axis in fitting else fitting[0]
        left.remove(found)
        order[axis] = found
        start = int(starts[found])
        if length == 1 or step > 0:
            is_whole = (start, length) == (0, owner.shape[found])
            parts[found] = ":" if is_whole else f"{start}:{start + length}"
        else:
            stop = start - length
            first = "" if start == owner.shape[found] - 1 else start
            parts[found] = f"{first}:{'' if stop < 0 else stop}:-1"
    for axis in left:
        parts[axis] = str(int(starts[axis]))
    text = owner.name if set(parts) == {":"} else f"{owner.name}[{', '.join(parts)}]"
    if order == sorted(order):
        return text
    kept = sorted(order)
    return f"{text}.transpose({', '.join(str(kept.index(axis)) for axis in order)})"


LOG = CallLog()


def _logged(function: Any, note: Callable[..., None], prepare: Callable[..., Any] = _itself) -> Any:
    """A wrapper that calls the function and, unless it is called by another one, notes the call.

    It leaves no trace in a traceback: an exception that is raised again by a bare `raise` gets no entry for it.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        is_outer = not LOG.is_busy
        LOG.is_busy = True
        try:
            if is_outer:
                arguments = prepare(arguments)
            result = function(*arguments, **keywords)
            if is_outer:
                LOG.is_busy = False
        except BaseException as error:
            LOG.is_busy = not is_outer
            error.__traceback__ = _without_this_file(error.__traceback__)
            raise
        if is_outer:
            with contextlib.suppress(Exception):
                note(arguments, keywords, result)
        return result

    return _Builtin(function, call) if isinstance(function, types.BuiltinFunctionType) else call


class _Builtin:
    """A wrapper that looks like the function of C that it calls, and as an attribute of a class does not bind."""

    def __init__(self, function: Any, call: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._call = call

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._call(*arguments, **keywords)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return types.BuiltinFunctionType

    def __repr__(self) -> str:
        return repr(self.__dict__["__wrapped__"])

    def __reduce__(self) -> str:
        return str(self.__dict__["__name__"])


def _without_this_file(trace: TracebackType | None) -> TracebackType | None:
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    kept = [entry for entry in entries if entry.tb_frame.f_code.co_filename != __file__]
    for entry, after in zip(kept, [*kept[1:], None], strict=False):
        if entry.tb_next is not after:
            entry.tb_next = after
    return kept[0] if kept else None


def _note(path: str) -> Callable[..., None]:
    return lambda arguments, keywords, result: LOG.note(path, arguments, keywords, result)


class _Levels:
    """The function that `Image.point` is given: its values are the table that counts."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.values: list[Any] = []

    def __call__(self, level: Any) -> Any:
        self.values.append(self._function(level))
        return self.values[-1]


def _prepare_point(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) < 2 or not callable(arguments[1]):
        return arguments
    return arguments[0], _Levels(arguments[1]), *arguments[2:]


def _note_point(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    image, levels, *mode = arguments
    if not isinstance(levels, _Levels) or keywords:
        LOG.note(".point", arguments, keywords, result)
        return
    known = [min(max(round(value), 0), 255) for value in levels.values]
    table = np.array([255 * (level > 0) for level in known] if mode == ["1"] else known, np.uint8)
    reads: set[str] = set()
    LOG.define(result, f"Image.fromarray(cv2.LUT(np.array({LOG.text(image, reads)}), {_literal(table)}))", reads)


def _note_enhanced(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    enhancer, *rest = arguments
    reads: set[str] = set()
    image, *texts = [LOG.text(value, reads) for value in (enhancer.image, *rest, *keywords.values())]
    LOG.define(result, f"ImageEnhance.{type(enhancer).__name__}({image}).enhance({', '.join(texts)})", reads)


def _note_padded(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    """`np.pad` of an image, as OpenCV's border, which gives the same."""
    array, widths = arguments[:2]
    mode = arguments[2] if len(arguments) > 2 else keywords.get("mode", "constant")
    sides = np.broadcast_to(widths, (array.ndim, 2)).tolist()
    value = keywords.get("constant_values", 0)
    if type(value) is int and not any(map(any, sides[2:])):
        LOG.note("cv2.copyMakeBorder", (array, *sides[0], *sides[1], _BORDERS[mode]), {"value": (value,) * 3}, result)


def _note_nothing(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    """For calls that are no step of a program, and whose own calls are none."""


def install() -> None:
    """Replace the functions of the libraries by wrappers, once."""
    for module_name, (module, names) in _FUNCTIONS.items():
        for name in names:
            setattr(module, name, _logged(getattr(module, name), _note(f"{module_name}.{name}")))
    np.pad = _logged(np.pad, _note_padded)
    for name in _IMAGE_METHODS:
        setattr(Image.Image, name, _logged(getattr(Image.Image, name), _note(f".{name}")))
    Image.Image.point = _logged(Image.Image.point, _note_point, _prepare_point)  # type: ignore[method-assign]
    for name in _SHAPES:
        setattr(ImageDraw.ImageDraw, name, _logged(getattr(ImageDraw.ImageDraw, name), _note(f".{name}")))
    ImageDraw.Draw = _logged(ImageDraw.Draw, _note("ImageDraw.Draw"))
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Sharpness):
        for name, note in (("__init__", _note_nothing), ("enhance", _note_enhanced)):
            setattr(enhancer, name, _logged(getattr(enhancer, name), note))
    for kind, name in ((np.ndarray, "copy"), (np.ndarray, "astype"), (cv2.CLAHE, "apply")):
        _replace(kind, name, _logged(getattr(kind, name), _note(f".{name}")))


def _replace(kind: type, name: str, method: Any) -> None:
    """Replace a method of a type that is written in C and takes no new attributes: by its dictionary."""
    (methods,) = gc.get_referents(kind.__dict__)
    methods[name] = method
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
