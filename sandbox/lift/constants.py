"""Constants of a snippet and what is computed from them; see `sandbox.lift.reader`. Every result is bounded in size."""

from __future__ import annotations

import ast
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sandbox.lift.symbols import KnownFaultError, NotLiftableError, Unknown

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Pow: lambda base, power: _power(base, power),
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _power(base: Any, power: Any) -> Any:
    if abs(power) > 64 or abs(base) > 1e6:
        raise NotLiftableError("a large power")
    value = base**power
    if isinstance(value, complex):
        raise NotLiftableError("a complex number")
    return value


#: Builtins that are computed while reading.
NUMERIC: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
    "sum": sum,
}
#: Functions of `math` that are computed while reading.
MATH: dict[str, Callable[..., Any]] = {
    name: getattr(math, name)
    for name in (
        *("floor", "ceil", "sqrt", "radians", "degrees", "sin", "cos", "tan", "hypot", "atan2", "atan", "asin", "acos"),
        *("exp", "log", "log2", "log10", "fabs"),
    )
}
_MAX_NUMBER = 1e15
#: How a number may be formatted, with few places.
_FORMAT = re.compile(r"[<>^]?[+]?0?\d{0,2},?(\.\d{1,2})?[dfeg%s]?")
_MAX_TEXT = 4096
#: Elements that a constant may have, its parts' elements among them: names can double it line by line.
_MAX_ELEMENTS = 256


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | np.integer)


def is_many_numbers(value: object) -> bool:
    """Whether the value is a list of numbers, or a tuple."""
    return isinstance(value, tuple | list) and all(map(_is_plain, value))


def holds_symbol(value: object) -> bool:
    """Whether the value is, or holds, something that only a run can tell."""
    if isinstance(value, tuple | list):
        return any(holds_symbol(part) for part in value)
    return not (value is None or isinstance(value, bool | int | float | str))


def _is_constant(*values: object) -> bool:
    return all(isinstance(value, int | float | str | tuple) for value in values)


def _is_special(value: object) -> bool:
    """Whether comparing the value gives, or may give, something else than True or False."""
    return holds_symbol(value) or _holds_numpy(value)


def _holds_numpy(value: object) -> bool:
    return any(map(_holds_numpy, value)) if isinstance(value, tuple | list) else isinstance(value, np.generic)


def _compare(comparison: ast.cmpop, left: Any, right: Any) -> bool:
    if type(comparison) not in _COMPARE or not _is_constant(left, right) or _is_special(left) or _is_special(right):
        raise NotLiftableError("a comparison that is not read here")
    try:
        return bool(_COMPARE[type(comparison)](left, right))
    except TypeError:
        raise NotLiftableError("a comparison of different types") from None


def _shown(text: str) -> str:
    if len(text) > _MAX_TEXT:
        raise NotLiftableError("much text")
    return text


def check_small(elements: Sequence[Any], seen: int = 0) -> int:
    """How many elements there are, those of elements among them.

    Raises:
        NotLiftableError: They are many.
    """
    for element in elements:
        seen = check_small(element, seen + 1) if isinstance(element, tuple | list) else seen + 1
        if seen > _MAX_ELEMENTS:
            raise NotLiftableError("a large constant")
    return seen


class Constants(ABC):
    """Reads literals, operators, conditions, formatted strings and prints.

    Attributes:
        text: What was printed so far.
        is_plain: Whether all of the snippet was read, and holds nothing that parses and does not compile.
    """

    text: str = ""
    is_plain: bool = True

    @abstractmethod
    def value(self, node: ast.expr) -> Any:
        """What an expression gives."""

    def truth(self, value: Any) -> bool:
        """Whether a constant is true."""
        if holds_symbol(value):
            raise NotLiftableError("a condition that only a run can tell")
        return bool(value)

    def _read_constant(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, bool | str | float):
            return node.value
        if isinstance(node.value, int):
            return self.bounded(node.value)
        raise NotLiftableError(f"a constant of type {type(node.value).__name__}")

    def bounded(self, value: Any) -> Any:
        """The number, where it is one and of a size that costs nothing."""
        if not _is_plain(value) or (isinstance(value, int) and abs(value) > _MAX_NUMBER):
            raise NotLiftableError("a number that is not read here")
        return value

    def _read_tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts))

    def _read_list(self, node: ast.List) -> list[Any]:
        return self._elements(node.elts)

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        elements = [self.value(node) for node in nodes]
        check_small(elements)
        return elements

    def _read_unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return not self.truth(value)
        if not _is_plain(value) or isinstance(node.op, ast.Invert):
            return self.operate(node.op, value, None)
        return -value if isinstance(node.op, ast.USub) else +value

    def _read_binop(self, node: ast.BinOp) -> Any:
        return self.combine(node.op, self.value(node.left), self.value(node.right))

    def combine(self, sign: ast.operator, left: Any, right: Any) -> Any:
        """What an operator gives."""
        if not _is_plain(left) or not _is_plain(right) or type(sign) not in _BINARY:
            return self.operate(sign, left, right)
        try:
            return self.bounded(_BINARY[type(sign)](left, right))
        except (ZeroDivisionError, OverflowError) as error:
            raise KnownFaultError(type(error).__name__, str(error)) from None

    def operate(self, sign: ast.operator | ast.cmpop | ast.unaryop, left: Any, right: Any) -> Any:
        """An operator on something else than two numbers."""
        if isinstance(sign, ast.Add) and isinstance(left, str) and isinstance(right, str):
            return _shown(left + right)
        if isinstance(sign, ast.Mult) and isinstance(left, tuple | list) and isinstance(right, int) and right <= 8:
            repeated = left * right
            check_small(repeated)
            return repeated
        if isinstance(sign, ast.Add) and type(left) is type(right) and isinstance(left, tuple | list):
            joined = left + right
            check_small(joined)
            return joined
        raise NotLiftableError("an operator on something else than numbers")

    def _read_compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        if len(node.ops) == 1:
            return self._compare_two(node.ops[0], node.left, left, self.value(node.comparators[0]))
        for comparison, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.value(comparator)
            if not _compare(comparison, left, right):
                return False
            left = right
        return True

    def _compare_two(self, comparison: ast.cmpop, node: ast.expr, left: Any, right: Any) -> Any:
        if isinstance(comparison, ast.Is | ast.IsNot):
            if right is not None or isinstance(left, Unknown) or isinstance(node, ast.Constant):
                raise NotLiftableError("a comparison that is not read here")
            return (left is None) == isinstance(comparison, ast.Is)
        if isinstance(comparison, ast.In | ast.NotIn) and isinstance(right, tuple | list):
            if _is_special(left) or _is_special(right):
                raise NotLiftableError("a comparison that is not read here")
            return (left in right) == isinstance(comparison, ast.In)
        if not _is_constant(left, right):
            return self.operate(comparison, left, right)
        return _compare(comparison, left, right)

    def _read_boolop(self, node: ast.BoolOp) -> Any:
        value: Any = None
        self.is_plain = False
        for operand in node.values:
            value = self.value(operand)
            if self.truth(value) != isinstance(node.op, ast.And):
                break
        return value

    def _read_ifexp(self, node: ast.IfExp) -> Any:
        self.is_plain = False
        return self.value(node.body if self.truth(self.value(node.test)) else node.orelse)

    def _read_joinedstr(self, node: ast.JoinedStr) -> str:
        return _shown("".join(self._piece(part) for part in node.values))

    def _piece(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if not isinstance(node, ast.FormattedValue) or node.conversion != -1:
            raise NotLiftableError("a formatted string that is not read here")
        value = self._printable(self.value(node.value))
        if node.format_spec is None:
            return _shown(format(value))
        form = self.value(node.format_spec)
        if not _FORMAT.fullmatch(form):
            raise NotLiftableError("a format that is not read here")
        try:
            return _shown(format(value, form))
        except (ValueError, TypeError):
            raise NotLiftableError("a format that does not fit") from None

    def _printable(self, value: Any) -> Any:
        if holds_symbol(value):
            raise NotLiftableError("printing something else than constants")
        return value

    def print(self, node: ast.Call) -> None:
        """Read a call of `print` with constants."""
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise NotLiftableError("print with keywords")
        pieces = [_shown(str(self._printable(self.value(argument)))) for argument in node.args]
        self.text = _shown(self.text + " ".join(pieces) + "\n")

    def number(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """What a function of numbers gives."""
        if name == "len" and len(arguments) == 1 and isinstance(arguments[0], tuple | list) and not keywords:
            return len(arguments[0])
        if name in {"min", "max", "sum"} and len(arguments) == 1 and is_many_numbers(arguments[0]) and arguments[0]:
            return self.bounded(NUMERIC[name](arguments[0]))
        if name == "sum" or keywords or not arguments or not all(map(_is_plain, arguments)):
            raise NotLiftableError(f"a call of {name}")
        if name == "round" and len(arguments) == 2 and not (isinstance(arguments[1], int) and abs(arguments[1]) <= 20):
            raise NotLiftableError("a rounding that is not read here")
        function = NUMERIC.get(name) or MATH[name]
        try:
            return self.bounded(function(*arguments))
        except (ValueError, OverflowError) as error:
            raise KnownFaultError(type(error).__name__, str(error)) from None
        except TypeError:
            raise NotLiftableError(f"a call of {name}") from None
