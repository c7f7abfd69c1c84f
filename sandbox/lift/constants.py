"""Constants of a snippet, and computations with them. Every result is bounded in size."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence

import numpy as np

from sandbox.lift.values import Constant, NotLiftableError, Value
from sandbox.operations.arrays import DTYPES, MAX_ELEMENTS, Table, table_of
from sandbox.operations.parameters import is_integer

_MAX_NUMBER = 1e15
_MAX_TEXT = 4096
#: Elements of a tuple or list, including nested ones: names can double them line by line.
_MAX_PARTS = 256
#: Formats that a number may have.
_FORMAT = re.compile(r"[<>^]?[+]?0?\d{0,2},?(\.\d{1,2})?[dfeg%s]?")

Number = int | float

_OPERATORS: dict[type[ast.operator | ast.unaryop], Callable[..., Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
    ast.Pow: lambda base, power: _power(base, power),
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
    "len": len,
}
#: Builtin functions that are computed during reading.
BUILTIN_FUNCTIONS = frozenset(_FUNCTIONS)


def is_constant(value: Value) -> bool:
    """Whether the value can be printed: no picture, no array, no library object."""
    if isinstance(value, tuple | list):
        return all(map(is_constant, value))
    return value is None or isinstance(value, bool | int | float | str)


def bounded(value: Value) -> Constant:
    """Return a constant that is small enough to compute with.

    Raises:
        NotLiftableError: The value is large, or no constant.
    """
    if isinstance(value, bool | float) or value is None:
        return value
    if isinstance(value, int) and abs(value) <= _MAX_NUMBER:
        return value
    if isinstance(value, str) and len(value) <= _MAX_TEXT:
        return value
    raise NotLiftableError("a large constant" if isinstance(value, int | str) else f"a constant {type(value).__name__}")


def check_small(elements: Sequence[Value], seen: int = 0) -> int:
    """Number of elements, including nested ones; raises NotLiftableError if there are too many."""
    for element in elements:
        seen = check_small(element, seen + 1) if isinstance(element, tuple | list) else seen + 1
        if seen > _MAX_PARTS:
            raise NotLiftableError("a large tuple or list")
    return seen


def _power(base: Number, power: Number) -> Number:
    if abs(power) > 64 or abs(base) > 1e6 or (base < 0 and not isinstance(power, int)):
        raise NotLiftableError("a large power")
    value: Number = base**power
    return value


def compute(sign: ast.operator | ast.unaryop, *operands: Value) -> Constant:
    """Compute an operator on numbers, or `+` on texts."""
    left = operands[0]
    if isinstance(sign, ast.Add) and isinstance(left, str) and isinstance(operands[1], str):
        return bounded(left + operands[1])
    if type(sign) not in _OPERATORS or not all(isinstance(operand, int | float) for operand in operands):
        raise NotLiftableError("an operator on something other than numbers", "use constants and image sizes")
    try:
        return bounded(_OPERATORS[type(sign)](*operands))
    except (ArithmeticError, TypeError):
        raise NotLiftableError("arithmetic that fails") from None


def call(name: str, arguments: Sequence[Value]) -> Constant:
    """Compute a builtin function of numbers, or `len`."""
    first = arguments[0] if len(arguments) == 1 else None
    if name == "len" and isinstance(first, tuple | list):
        return len(first)
    values = first if name in {"min", "max"} and isinstance(first, tuple | list) else arguments
    if name == "len" or not values or not all(isinstance(value, int | float) for value in values):
        raise NotLiftableError(f"{name} of something other than numbers")
    if name == "round" and len(values) == 2 and not (is_integer(values[1]) and abs(values[1]) <= 20):
        raise NotLiftableError("a rounding to many places")
    try:
        return bounded(_FUNCTIONS[name](*values))
    except (ArithmeticError, TypeError, ValueError):
        raise NotLiftableError(f"a call of {name} that fails") from None


def shown(value: Value, form: str | None = None) -> str:
    """A constant as `print` and f-strings show it."""
    if not is_constant(value):
        raise NotLiftableError("printing something other than constants and sizes")
    if form is not None and not _FORMAT.fullmatch(form):
        raise NotLiftableError("a format like this", "format by `:.2f` or the like")
    try:
        text = str(value) if form is None else format(value, form)
    except (ValueError, TypeError):
        raise NotLiftableError("a format that does not fit") from None
    bounded(text)
    return text


def item(owner: tuple[Value, ...] | list[Value], index: Value | slice) -> Value:
    """An element or a slice of a tuple or list."""
    if isinstance(index, slice):
        return owner[index]
    if not is_integer(index) or not -len(owner) <= index < len(owner):
        raise NotLiftableError("an index outside a tuple or list")
    return owner[index]


def array(rows: Value, dtype: str | None) -> Table:
    """`np.array` of literal numbers."""
    if not isinstance(rows, tuple | list) or dtype not in (None, *DTYPES):
        raise NotLiftableError("an array like this", "write its numbers down")
    try:
        with np.errstate(all="raise"):
            made = np.array(rows, dtype=dtype)
            table = table_of(made) if made.size <= MAX_ELEMENTS and made.dtype.kind in "iuf" else None
    except (ArithmeticError, TypeError, ValueError):
        table = None
    if table is None:
        raise NotLiftableError("an array like this", "write its numbers down")
    return table
