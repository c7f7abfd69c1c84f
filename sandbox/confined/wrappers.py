"""Wraps library functions in a worker, so that the calls of a snippet are logged.

Wrappers call the functions that they replace, give the same pixels, texts and errors, and appear in no traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import types
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageOps

from sandbox.confined import postponed
from sandbox.confined.call_log import LOG, literal

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
            *("solarize", "expand", "pad"),  # the other functions make calls that are logged
        ),
    ),
    "np": (np, ("array", "asarray", "ascontiguousarray", "copy")),
    "cv2": (
        cv2,
        (
            *("resize", "rotate", "flip", "transpose", "warpAffine", "warpPerspective", "copyMakeBorder"),
            *("cvtColor", "split", "merge"),
            *("GaussianBlur", "blur", "medianBlur", "bilateralFilter", "filter2D", "erode", "dilate", "morphologyEx"),
            *("threshold", "adaptiveThreshold", "Canny", "Sobel", "Scharr", "Laplacian", "magnitude", "normalize"),
            *("convertScaleAbs", "equalizeHist", "LUT", "add", "subtract", "absdiff", "addWeighted"),
            *("bitwise_not", "bitwise_and", "bitwise_or", "fastNlMeansDenoising", "fastNlMeansDenoisingColored"),
            "createCLAHE",
        ),
    ),
}
#: OpenCV's border for each mode of `np.pad`.
_BORDERS = {"constant": 0, "edge": 1, "symmetric": 2, "reflect": 4}


def _as_given(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments


def _run_now(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Return None: the call is not postponed."""


def _logged(
    function: Any,
    note: Callable[..., None],
    prepare: Callable[..., Any] = _as_given,
    postpone: Callable[..., Any] = _run_now,
) -> Any:
    """A wrapper that calls the function, or postpones the call, and logs it unless another wrapped function made it.

    It leaves no trace in a traceback: an exception that a bare `raise` raises again gets no entry for the wrapper.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        is_outer = not LOG.is_busy
        LOG.is_busy = True
        try:
            result = None
            if is_outer:
                arguments = prepare(arguments)
                result = postpone(arguments, keywords)
            if result is None:
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

    if isinstance(function, types.MethodDescriptorType):
        return _BuiltinMethod(function, call)
    return _Builtin(function, call) if isinstance(function, types.BuiltinFunctionType) else call


class _Builtin:
    """A wrapper that looks like the C function that it calls and, as a class attribute, does not bind."""

    def __init__(self, function: Any, call: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__wrapped__"], name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._call(*arguments, **keywords)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(self.__dict__["__wrapped__"])

    def __repr__(self) -> str:
        return repr(self.__dict__["__wrapped__"])

    def __reduce__(self) -> str:
        return str(self.__dict__["__name__"])


class _BuiltinMethod(_Builtin):
    """Such a wrapper for a method, which does bind."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = self.__dict__["__wrapped__"].__get__(instance, owner)
        return _Builtin(bound, functools.partial(self._call, instance))


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
    """The function given to `Image.point`; its values are the table that the log records."""

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
    LOG.define(result, f"Image.fromarray(cv2.LUT(np.array({LOG.text(image, reads)}), {literal(table)}))", reads)


def _note_enhanced(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    enhancer, *rest = arguments
    reads: set[str] = set()
    image, *texts = [LOG.text(value, reads) for value in (enhancer.image, *rest, *keywords.values())]
    LOG.define(result, f"ImageEnhance.{type(enhancer).__name__}({image}).enhance({', '.join(texts)})", reads)


def _note_padded(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    """Log `np.pad` of an image as OpenCV's border, which gives the same result."""
    array, widths = arguments[:2]
    mode = arguments[2] if len(arguments) > 2 else keywords.get("mode", "constant")
    sides = np.broadcast_to(widths, (array.ndim, 2)).tolist()
    value = keywords.get("constant_values", 0)
    if type(value) is int and not any(map(any, sides[2:])):
        LOG.note("cv2.copyMakeBorder", (array, *sides[0], *sides[1], _BORDERS[mode]), {"value": (value,) * 3}, result)


def _note_nothing(arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
    """Log nothing, for calls that are not steps of a program and whose inner calls are not either."""


def install() -> None:
    """Replace the library functions by wrappers, once."""
    postponed.install()
    for module_name, (module, names) in _FUNCTIONS.items():
        for name in names:
            setattr(module, name, _logged(getattr(module, name), _note(f"{module_name}.{name}")))
    np.pad = _logged(np.pad, _note_padded)
    for name in _IMAGE_METHODS:
        wait = functools.partial(postponed.postpone, name) if name in postponed.METHODS else _run_now
        setattr(Image.Image, name, _logged(getattr(Image.Image, name), _note(f".{name}"), postpone=wait))
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
    """Replace a method in the dictionary of a C type, which does not allow new attributes."""
    (methods,) = gc.get_referents(kind.__dict__)
    methods[name] = method
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
