"""What a snippet's names stand for while it is read: pictures that do not exist yet, library names, and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sandbox.geometry import Size
from sandbox.operations.arrays import table_of
from sandbox.operations.formula_functions import Shape
from sandbox.operations.formulas import Formula
from sandbox.operations.operation import Operation, State
from sandbox.operations.parameters import Parameter
from sandbox.operations.table import OPERATIONS

#: Pixels that an image between two operations may have; beyond, the confined lane has the limits for it.
MAX_PIXELS = 1 << 26


class NotLiftableError(Exception):
    """The snippet cannot be read with certainty; the message says what stands in the way."""


class KnownFaultError(Exception):
    """The snippet raises here, for certain. `kind` is the type's name as the interpreter prints it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class DoomedError(Exception):
    """The library raises in the last operation of `picture`."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self.picture = picture


@dataclass(eq=False)
class Picture:
    """An image or array object of the snippet, as the operations that lead to it.

    Attributes:
        source: Index of the image it starts from, None for the chosen one.
        states: Before the first and after each operation.
        operations: What was done.
        is_array: True for a NumPy array of the pixels.
        is_changed: True where the object was changed in place.
        is_drawn: True where it was drawn on, which may have changed no pixel.
    """

    source: int | None
    states: tuple[State, ...]
    operations: tuple[Operation, ...] = ()
    is_array: bool = False
    is_changed: bool = False
    is_drawn: bool = False

    @property
    def state(self) -> State:
        """Size and mode now."""
        return self.states[-1]

    @property
    def is_gray(self) -> bool:
        """Whether it has one channel."""
        return self.state.mode == "L"

    def as_array(self) -> Picture:
        """The same pixels as a new array."""
        return Picture(self.source, self.states, self.operations, is_array=True)

    def as_image(self) -> Picture:
        """The same pixels as a new image."""
        return Picture(self.source, self.states, self.operations)


@dataclass(frozen=True)
class Name:
    """A dotted name of a library, e.g. `ImageOps.mirror`."""

    path: str


@dataclass(frozen=True)
class Filter:
    """A filter object, e.g. `ImageFilter.BoxBlur(2)`."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Enhancer:
    """An enhancer object, e.g. `ImageEnhance.Color(image)`."""

    name: str
    picture: Picture
    operations: tuple[Operation, ...]


@dataclass(frozen=True, eq=False)
class Wide:
    """An array, or a number, that is computed from pixels and is none of them: a `Formula` with pictures as leaves."""

    formula: Formula
    shape: Shape


@dataclass(eq=False)
class Grid:
    """A small array of numbers that is known already: a kernel, a matrix, a lookup table."""

    array: np.ndarray[Any, Any]


@dataclass(eq=False)
class Pen:
    """An `ImageDraw` object: it draws on a picture for as long as nothing else changes that."""

    picture: Picture
    operations: tuple[Operation, ...]


@dataclass(eq=False)
class Canvas:
    """An image of one colour, and what it became when a picture was pasted into it."""

    mode: str
    size: Size
    color: Any
    picture: Picture | None = None


@dataclass(frozen=True)
class Equalizer:
    """An object of `cv2.createCLAHE`."""

    values: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Closure:
    """A function of one argument that is written in the snippet."""

    call: Callable[[Any], Any]


class Unknown:
    """A value that only a run can tell."""


def library_fault(call: Callable[[], object]) -> KnownFaultError:
    """The error that a call of the library raises."""
    try:
        call()
    except (TypeError, ValueError, AttributeError) as error:
        return KnownFaultError(type(error).__name__, str(error))
    raise NotLiftableError("a value that is not read here")


def bind(
    parameters: tuple[Parameter, ...], arguments: list[Any], keywords: dict[str, Any], *, by_position: bool = False
) -> list[Any]:
    """The value of each parameter, as Python binds them; `by_position`: all of them can be given by position.

    Raises:
        NotLiftableError: Where Python would raise a TypeError, or the call uses a parameter that is not known here.
    """
    names = [parameter.name for parameter in parameters]
    if len(arguments) > sum(by_position or not parameter.by_name for parameter in parameters):
        raise NotLiftableError("more arguments than are known here")
    bound = dict(zip(names, arguments, strict=False))
    for name, value in keywords.items():
        if name not in names or name in bound:
            raise NotLiftableError(f"the argument {name!r}")
        bound[name] = value
    values = [bound.get(parameter.name, parameter.default) for parameter in parameters]
    if any(value is ... for value in values):
        raise NotLiftableError("a missing argument")
    return values


def frozen(value: Any) -> Any:
    """A list as a tuple, for calls that take either."""
    return tuple(frozen(part) for part in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """A value as an operation holds it: no NumPy number, no array."""
    if isinstance(value, Grid):
        table = table_of(value.array)
        if table is None:
            raise NotLiftableError("an array that is not read here")
        return table
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, np.generic) and not isinstance(value, np.int64 | np.float64):
        raise NotLiftableError("a number of few bits, with which libraries compute otherwise")
    return value.item() if isinstance(value, np.generic) else value


def _holds_numpy(value: Any) -> bool:
    return any(map(_holds_numpy, value)) if isinstance(value, tuple | list) else isinstance(value, np.generic)


def change(picture: Picture, after: Picture) -> None:
    """Make `picture` what it is after a call that changed the object in place."""
    picture.states, picture.operations = after.states, after.operations


def append(picture: Picture, name: str, values: list[Any] | tuple[Any, ...], line: int) -> Picture:
    """The picture after one more operation; the picture itself stays as it is.

    Raises:
        DoomedError: Where the library is known to raise.
        NotLiftableError: Where it is not certain what happens.
    """
    kind = OPERATIONS[name]
    if min(picture.state.size) <= 0:
        raise NotLiftableError("an operation on an image without pixels")
    if picture.state.mode not in kind.modes:
        raise NotLiftableError(f"{name} on an image of mode {picture.state.mode}")
    operation = Operation(name, tuple(map(_plain, values)), line)
    verdicts = [check.check(value) for check, value in zip(kind.parameters, operation.values, strict=True)]
    if None in verdicts:
        raise NotLiftableError(f"an argument of {name} that is not read here")
    operations = (*picture.operations, operation)
    if False in verdicts:
        if _holds_numpy(tuple(values)):
            raise NotLiftableError("a message that names a type of NumPy")
        raise DoomedError(Picture(picture.source, picture.states, operations))
    if picture.is_gray and any(
        check.name in {"fillcolor", "fill", "color", "outline"} and isinstance(value, tuple)
        for check, value in zip(kind.parameters, operation.values, strict=True)
    ):
        raise NotLiftableError("a colour of three channels on a gray image")
    state = kind.after(operation.values, picture.state)
    if state.size[0] * state.size[1] > MAX_PIXELS:
        raise NotLiftableError(f"an image of {state.size[0]}x{state.size[1]}")
    return Picture(picture.source, (*picture.states, state), operations, is_array=picture.is_array)
