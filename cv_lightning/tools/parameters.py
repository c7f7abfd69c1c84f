"""Parameters of tools: what a JSON argument may be, as a schema for the policy and as a check of what it wrote."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DIGITS = re.compile(r"\s*-?\d{1,9}\s*", re.ASCII)

#: Characters of a policy's value that a message repeats.
_SHOWN_CHARS = 80


class ArgumentError(Exception):
    """Arguments that the schema does not allow; the message says what it allows and begins as Python's would."""


@dataclass(frozen=True)
class ToolParameter(ABC):
    """One parameter of a tool.

    Attributes:
        description: What it means, for the policy.
        default: The value if the call gives none; `...` if it must give one.
    """

    description: str = ""
    default: Any = ...

    @abstractmethod
    def kind(self) -> dict[str, Any]:
        """Type and range in JSON Schema's words."""

    @abstractmethod
    def allowed(self) -> str:
        """Type and range in words."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """The value as code takes it: numbers, texts of a fixed set, tuples of numbers.

        Raises:
            TypeError: It is of another type.
            ValueError: It is out of range.
        """

    def schema(self) -> dict[str, Any]:
        """The parameter in JSON Schema's words."""
        schema = self.kind()
        if self.description:
            schema["description"] = self.description
        if self.default is not ...:
            schema["default"] = self.default
        return schema


def shown(value: Any) -> str:
    """A policy's value, as it wrote it, for a message."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "a value that is nested too deeply"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Number(ToolParameter):
    """A number in [low, high]."""

    low: float = -math.inf
    high: float = math.inf

    def kind(self) -> dict[str, Any]:
        """Type and range."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def allowed(self) -> str:
        """Type and range."""
        return f"a number from {self.low} to {self.high}"

    def read(self, value: Any) -> Any:
        """An int or a finite float."""
        if not _is_number(value):
            raise TypeError
        if not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Integer(ToolParameter):
    """An integer in [low, high]; 3.0 is one, as in JSON Schema."""

    low: int = 0
    high: int = 0

    def kind(self) -> dict[str, Any]:
        """Type and range."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def allowed(self) -> str:
        """Type and range."""
        return f"an integer from {self.low} to {self.high}"

    def read(self, value: Any) -> Any:
        """An int."""
        if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
            raise TypeError
        if not self.low <= value <= self.high:
            raise ValueError
        return int(value)


@dataclass(frozen=True)
class ImageIndex(ToolParameter):
    """An image of the trajectory; how many there are is the executor's to know, and its to say."""

    def kind(self) -> dict[str, Any]:
        """Type."""
        return {"type": "integer"}

    def allowed(self) -> str:
        """Type."""
        return "an integer"

    def read(self, value: Any) -> Any:
        """An int; "0" and 0.0 mean one too."""
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return int(value)
        if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
            raise TypeError
        return int(value)


@dataclass(frozen=True)
class Choice(ToolParameter):
    """One of a few texts or integers."""

    options: tuple[str | int, ...] = ()

    def kind(self) -> dict[str, Any]:
        """Type and options."""
        return {"type": "string" if isinstance(self.options[0], str) else "integer", "enum": list(self.options)}

    def allowed(self) -> str:
        """Options."""
        return f"one of {', '.join(map(repr, self.options))}"

    def read(self, value: Any) -> Any:
        """One of the options themselves, so no text of a policy gets into code."""
        for option in self.options:
            if value == option and not isinstance(value, bool):
                return option
        raise ValueError if isinstance(value, type(self.options[0])) else TypeError


@dataclass(frozen=True)
class Region(ToolParameter):
    """A box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, each in [0, high]."""

    high: int = 100_000

    def kind(self) -> dict[str, Any]:
        """Type, length and range."""
        of_each = {"type": "number", "minimum": 0, "maximum": self.high}
        return {"type": "array", "items": of_each, "minItems": 4, "maxItems": 4}

    def allowed(self) -> str:
        """Type and range."""
        return f"[x1, y1, x2, y2], numbers from 0 to {self.high} with x1 < x2 and y1 < y2"

    def read(self, value: Any) -> Any:
        """A tuple of four numbers."""
        if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
            raise TypeError
        x1, y1, x2, y2 = value
        if not all(0 <= part <= self.high for part in value) or x1 >= x2 or y1 >= y2:
            raise ValueError
        return x1, y1, x2, y2


def read_arguments(parameters: Mapping[str, ToolParameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a call and fill in defaults.

    Args:
        parameters: By name, in order.
        given: As JSON has them.

    Returns:
        A value for each parameter, in order.

    Raises:
        ArgumentError: One is missing, unknown, of another type, or out of range.
    """
    known = ", ".join(parameters) or "none"
    for name in given:
        if name not in parameters:
            raise ArgumentError(f"TypeError: unknown argument {shown(name)}; it takes: {known}.")
    values = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is ...:
            raise ArgumentError(f"TypeError: {name} is missing; it must be {parameter.allowed()}.")
        try:
            values[name] = parameter.read(value)
        except (TypeError, ValueError) as error:
            kind = type(error).__name__
            raise ArgumentError(f"{kind}: {name} must be {parameter.allowed()}, not {shown(value)}.") from None
    return values


def object_schema(parameters: Mapping[str, ToolParameter]) -> dict[str, Any]:
    """The arguments of a tool in JSON Schema's words."""
    return {
        "type": "object",
        "properties": {name: parameter.schema() for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.default is ...],
        "additionalProperties": False,
    }
