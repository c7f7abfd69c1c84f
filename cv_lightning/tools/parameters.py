"""Parameters of tools: allowed JSON arguments, as a schema for the policy and as a check of its calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DIGITS = re.compile(r"\s*-?\d{1,9}\s*", re.ASCII)

#: Maximum length of a policy's value in a message.
_SHOWN_CHARS = 80


class ArgumentError(Exception):
    """Arguments that the schema does not allow; the message says what is allowed and begins like Python's own."""


@dataclass(frozen=True)
class ToolParameter:
    """One parameter of a tool; the functions below create them.

    Attributes:
        description: Its meaning, for the policy.
        default: The value if the call gives none; `...` if the argument is required.
        kind: Type and range as JSON Schema.
        allowed: Type and range in words.
        read: JSON value -> value for the code. Raises TypeError for a wrong type, ValueError for a value out of range.
        is_box: Whether the value is a box in the coordinates of the toolbox.
    """

    description: str
    default: Any
    kind: Mapping[str, Any]
    allowed: str
    read: Callable[[Any], Any]
    is_box: bool = False

    def schema(self) -> dict[str, Any]:
        """The parameter as JSON Schema."""
        description = {"description": self.description} if self.description else {}
        default = {} if self.default is ... else {"default": self.default}
        return {**self.kind, **description, **default}


def shown(value: Any) -> str:
    """A policy's value for a message, in ASCII and shortened."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "a value that is nested too deeply"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    """The value as an integer; as in JSON Schema, 3.0 is an integer."""
    if isinstance(_number(value), float) and not value.is_integer():
        raise TypeError
    return int(value)


def _ranged(value: Any, low: float, high: float) -> Any:
    if not low <= value <= high:
        raise ValueError
    return value


def number(description: str = "", default: Any = ..., *, low: float, high: float) -> ToolParameter:
    """A number in [low, high]; code gets the int or float unchanged."""
    kind = {"type": "number", "minimum": low, "maximum": high}
    allowed = f"a number from {low} to {high}"
    return ToolParameter(description, default, kind, allowed, lambda value: _ranged(_number(value), low, high))


def integer(description: str = "", default: Any = ..., *, low: int, high: int) -> ToolParameter:
    """An integer in [low, high]."""
    kind = {"type": "integer", "minimum": low, "maximum": high}
    allowed = f"an integer from {low} to {high}"
    return ToolParameter(description, default, kind, allowed, lambda value: int(_ranged(_integer(value), low, high)))


def image_index(description: str = "", default: Any = ...) -> ToolParameter:
    """An image of the trajectory; "0" and 0.0 are also accepted. The executor checks that the image exists."""

    def read(value: Any) -> int:
        return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else _integer(value)

    return ToolParameter(description, default, {"type": "integer"}, "an integer", read)


def choice(description: str = "", default: Any = ..., *, options: Sequence[str | int]) -> ToolParameter:
    """One of a few texts or integers; code gets the option itself, so a policy's text never gets into code."""

    def read(value: Any) -> Any:
        for option in options:
            if value == option and not isinstance(value, bool):
                return option
        raise ValueError if isinstance(value, type(options[0])) else TypeError

    kind = {"type": "string" if isinstance(options[0], str) else "integer", "enum": list(options)}
    return ToolParameter(description, default, kind, f"one of {', '.join(map(repr, options))}", read)


def region(description: str = "", *, high: int = 100_000) -> ToolParameter:
    """A box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, each in [0, high]; code gets a tuple."""

    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != 4:
            raise TypeError
        x1, y1, x2, y2 = map(_number, value)
        if not all(0 <= part <= high for part in value) or x1 >= x2 or y1 >= y2:
            raise ValueError
        return x1, y1, x2, y2

    of_each = {"type": "number", "minimum": 0, "maximum": high}
    kind = {"type": "array", "items": of_each, "minItems": 4, "maxItems": 4}
    allowed = f"[x1, y1, x2, y2], numbers from 0 to {high} with x1 < x2 and y1 < y2"
    return ToolParameter(description, ..., kind, allowed, read, is_box=True)


def read_arguments(parameters: Mapping[str, ToolParameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a call and fill in defaults.

    Args:
        parameters: Parameters by name, in order.
        given: The arguments from JSON.

    Returns:
        A value for each parameter, in order.

    Raises:
        ArgumentError: An argument is missing, unknown, of a wrong type, or out of range.
    """
    known = ", ".join(parameters) or "none"
    for name in given:
        if name not in parameters:
            raise ArgumentError(f"TypeError: unknown argument {shown(name)}; it takes: {known}.")
    values = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is ...:
            raise ArgumentError(f"TypeError: {name} is missing; it must be {parameter.allowed}.")
        try:
            values[name] = parameter.read(value)
        except (TypeError, ValueError) as error:
            kind = type(error).__name__
            raise ArgumentError(f"{kind}: {name} must be {parameter.allowed}, not {shown(value)}.") from None
    return values


def object_schema(parameters: Mapping[str, ToolParameter]) -> dict[str, Any]:
    """The arguments of a tool as JSON Schema."""
    return {
        "type": "object",
        "properties": {name: parameter.schema() for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.default is ...],
        "additionalProperties": False,
    }
