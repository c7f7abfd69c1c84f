"""Logs, in a worker, the library calls of a snippet, and writes them down as a straight-line snippet: a claim.

The code owns this process and can write anything into the log. A claim proves nothing: the trainer reads it, runs it
again by its own operations and compares the pixels (`sandbox.effects.proof`).

`sandbox.confined.wrappers` calls it. The log holds objects by weak references, so that they live no longer than without
it. NumPy's slices, turns and mirrors are views, which themselves hold their position in the array that they show.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

#: Limits on logged calls, elements of a literal argument, and characters of a claim; beyond them, there is no claim.
_MAX_CALLS, _MAX_ELEMENTS, _MAX_CHARS = 256, 1024, 4096

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
_TYPES: dict[Any, str] = {
    kind: f"np.{kind.__name__}" for kind in (np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64)
}
_TYPES |= {int: "int", float: "float"}


class _OpaqueError(Exception):
    """An argument that cannot be written as a literal."""


@dataclass
class _Call:
    """A line of the log, with the name that it assigns or changes, and the names that it reads."""

    text: str
    writes: str
    reads: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Owner:
    """An array that owns its memory, with the facts needed to locate views of it."""

    array: weakref.ref[Any]
    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class CallLog:
    """The log of one request's calls."""

    def __init__(self) -> None:
        self.is_busy = True
        self.begin([], 0)

    def begin(self, images: list[Image.Image], chosen: int) -> None:
        """Forget everything; `images` are those that the code is shown."""
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
        """The claim of how `result` was made; "" if there is none. If `result` is unknown, it leads to the last image.

        Nothing is logged after this call.
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
        """Log a call of a function, or of a method of the first argument (`path` begins with a dot)."""
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
        """Log a call that made `value`, if other objects can be made of it; returns its name or ""."""
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
            _OpaqueError: The value is neither a known object nor a literal.
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
        return literal(value)


def _itself(value: Any) -> Any:
    return value


def _short(text: str) -> str:
    if len(text) > _MAX_CHARS:
        raise _OpaqueError
    return text


def literal(value: Any) -> str:
    """A library object as Python."""
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
    """A view of an array as Python; "" if it is not made of slices, turns and mirrors."""
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
