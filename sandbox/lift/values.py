"""The values that a snippet's names hold while it is read, and how a call becomes an operation on a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from sandbox.operations.arrays import Table
from sandbox.operations.operation import Operation, State, Values
from sandbox.operations.parameters import Parameter
from sandbox.operations.table import OPERATIONS

#: Largest number of pixels of an image between two operations.
MAX_PIXELS = 1 << 26
#: Largest number of operations of a program.
MAX_OPERATIONS = 32


class NotLiftableError(Exception):
    """The snippet cannot be read with certainty: holds the reason, and a replacement if one is known."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class KnownFaultError(Exception):
    """The snippet certainly raises here. `kind` is the name of the error's type as the interpreter prints it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(eq=False)
class Picture:
    """An image or array object of the snippet. Drawing changes it in place, for every name that holds it.

    Attributes:
        source: Index of the image that it starts from; -1 for a new image of one color before a paste.
        states: Size and mode before the first and after each operation.
        operations: The operations that lead to it.
        is_array: True for a NumPy array of the pixels.
        color: Color of a new image.
    """

    source: int
    states: tuple[State, ...]
    operations: tuple[Operation, ...] = ()
    is_array: bool = False
    color: Value = None

    @property
    def state(self) -> State:
        """Present size and mode."""
        return self.states[-1]

    @property
    def is_gray(self) -> bool:
        """Whether it has one channel."""
        return self.state.mode == "L"

    def copy(self, *, is_array: bool | None = None) -> Picture:
        """A new object with the same pixels, as an array or as an image."""
        self.check_started()
        return Picture(self.source, self.states, self.operations, self.is_array if is_array is None else is_array)

    def check_started(self) -> None:
        """Raise NotLiftableError for a new image, because it is none of the request's images."""
        if self.source < 0:
            raise NotLiftableError("a new image without a pasted one")

    def become(self, other: Picture) -> None:
        """Change in place to the state of `other`."""
        self.source, self.states, self.operations = other.source, other.states, other.operations

    def then(self, name: str, values: Sequence[Value]) -> Picture:
        """Return a new object with one more operation.

        Raises:
            NotLiftableError: The library may raise, or may differ from the table.
        """
        self.check_started()
        kind = OPERATIONS[name]
        if min(self.state.size) <= 0 or self.state.mode not in kind.modes:
            raise NotLiftableError(f"{name} on an image of size {self.state.size} and mode {self.state.mode}")
        plain = tuple(map(_plain, values))
        for parameter, value in zip(kind.parameters, plain, strict=True):
            is_color = parameter.name in {"fillcolor", "fill", "color", "outline"} and isinstance(value, tuple)
            if not parameter.check(value) or (is_color and self.is_gray):
                raise NotLiftableError(f"{name} with {parameter.name}={value!r}")
        state = kind.after(plain, self.state)
        if state.size[0] * state.size[1] > MAX_PIXELS or len(self.operations) >= MAX_OPERATIONS:
            raise NotLiftableError(f"{name} to an image of size {state.size} after {len(self.operations)} operations")
        return Picture(
            self.source, (*self.states, state), (*self.operations, Operation(name, plain)), is_array=self.is_array
        )


@dataclass(frozen=True)
class Name:
    """A dotted name of a library or a builtin, e.g. `ImageOps.mirror`."""

    path: str


@dataclass(frozen=True)
class Maker:
    """An object that holds the values of an operation, e.g. `ImageFilter.BoxBlur(2)`."""

    name: str
    values: Values


@dataclass(frozen=True)
class Enhancer:
    """An enhancer object, e.g. `ImageEnhance.Color(image)`; it holds the picture in its state at that time."""

    name: str
    picture: Picture
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Pen:
    """An `ImageDraw` object."""

    picture: Picture


class Unknown:
    """A value that can only be known by running the snippet."""


Constant = None | bool | int | float | str | Table | tuple["Value", ...] | list["Value"]
Value = Constant | Picture | Name | Maker | Enhancer | Pen | Unknown


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call, without the picture on which it is made."""

    positional: Sequence[Value] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)

    def bind(self, parameters: Sequence[Parameter]) -> list[Value]:
        """The value of each parameter, as Python would bind it.

        Raises:
            NotLiftableError: Python would raise a TypeError, or a parameter is not known here.
        """
        names = [parameter.name for parameter in parameters]
        if len(self.positional) > sum(not parameter.by_name for parameter in parameters):
            raise NotLiftableError("a call with more positional arguments")
        bound = dict(zip(names, self.positional, strict=False))
        for name, value in self.keywords.items():
            if name not in names or name in bound:
                raise NotLiftableError(f"the argument {name!r}")
            bound[name] = value
        values = [bound.get(parameter.name, parameter.default) for parameter in parameters]
        if any(value is ... for value in values):
            raise NotLiftableError("a call without an argument that it needs")
        return values

    def take(self, *names: str, **defaults: Value) -> list[Value]:
        """The values of parameters that the caller checks: `names` are required, and `defaults` follow them."""
        needed = [Parameter(name, _anything) for name in names]
        return self.bind([*needed, *(Parameter(name, _anything, value) for name, value in defaults.items())])


def _anything(value: object) -> bool:
    return True


def frozen(value: Value) -> Value:
    """A list as a tuple, for calls that accept either."""
    return tuple(frozen(part) for part in value) if isinstance(value, list) else value


def _plain(value: Value) -> Value:
    """A value in the form of an operation: a member of an enumeration becomes its number."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, IntEnum) else value
