"""Arithmetic on arrays of pixels as data: trees of known NumPy, OpenCV and Pillow functions over images.

A `Formula` is a value of the operation "np.formula". Its leaves are what some operations make of the image; its
functions are those of `FUNCTIONS`, which are called with checked arguments and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox.operations.arrays import Table
from sandbox.operations.formula_functions import FUNCTIONS, Shape

Array = np.ndarray[Any, Any]

#: Parts that a formula may have, those of its leaves among them.
MAX_PARTS = 64


class UncertainError(Exception):
    """Only the interpreter can tell what this does: it would print a warning, say."""


@dataclass(frozen=True)
class Formula:
    """A function of numbers and other formulas.

    Attributes:
        function: A key of `FUNCTIONS`.
        arguments: Formulas, leaves and constants, by position.
        serial: Which call of the snippet it stands for, if any; no part of its meaning.
    """

    function: str
    arguments: tuple[Any, ...]
    serial: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        return f"Formula({self.function!r}, {self.arguments!r})"


@dataclass(frozen=True)
class Leaf:
    """The image after some operations, as an array."""

    operations: tuple[Any, ...] = ()


def parts_of(node: Any) -> int:
    """Formulas, leaves and operations in it."""
    if isinstance(node, Formula):
        return 1 + sum(parts_of(argument) for argument in node.arguments)
    if isinstance(node, Leaf):
        return 1 + sum(1 + sum(parts_of(value) for value in operation.values) for operation in node.operations)
    return 0


def describe(node: Any, leaf: Callable[[Any], Shape | None]) -> Shape | None:
    """Shape and type of what a formula gives; None where it would fail, which is tried on small arrays.

    Args:
        node: A `Formula`, or what `leaf` knows.
        leaf: The shape of a leaf; None for what is none.
    """
    if not isinstance(node, Formula):
        return leaf(node)
    shapes = [describe(argument, leaf) for argument in node.arguments]
    known = [shape for shape in shapes if shape is not None]
    if any(shape is None for shape, part in zip(shapes, node.arguments, strict=True) if isinstance(part, Formula)):
        return None
    function = FUNCTIONS[node.function]
    if not known or all(shape.size is None for shape in known):
        found = Shape(None, is_gray=True) if known and function.is_pointwise else None
    else:
        found = function.shape(known)
    if found is None:
        return None
    samples = [part if shape is None else shape.sample() for shape, part in zip(shapes, node.arguments, strict=True)]
    try:
        with np.errstate(all="ignore"):
            result = function.call(*map(_number, samples))
    except Exception:  # noqa: BLE001 - whatever the libraries raise: it does not go
        return None
    return Shape(found.size, found.is_gray, np.asarray(result).dtype)


def _number(value: Any) -> Any:
    return value.array if isinstance(value, Table) else value


def evaluate(node: Any, leaf: Callable[[Leaf], Array]) -> Any:
    """What a formula gives.

    Raises:
        UncertainError: NumPy would warn, and the snippet would print that.
    """
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
            return _evaluated(node, leaf, {})
    except FloatingPointError as error:
        raise UncertainError(str(error)) from error


def _evaluated(node: Any, leaf: Callable[[Leaf], Array], known: dict[Leaf, Array]) -> Any:
    if isinstance(node, Leaf):
        if node not in known:
            known[node] = leaf(node)
        return known[node]
    if isinstance(node, Formula):
        return FUNCTIONS[node.function].call(*(_evaluated(argument, leaf, known) for argument in node.arguments))
    return _number(node)


def serials_of(node: Any) -> set[int]:
    """The calls of the snippet that a value of an operation stands for."""
    if isinstance(node, Formula):
        return {node.serial}.union(*map(serials_of, node.arguments))
    if isinstance(node, Leaf):
        return {serial for operation in node.operations for value in operation.values for serial in serials_of(value)}
    return set()


def is_table(node: Any) -> bool:
    """Whether a formula gives each value by the value of the image in its place, and by nothing else."""
    if isinstance(node, Formula):
        return FUNCTIONS[node.function].is_pointwise and all(is_table(argument) for argument in node.arguments)
    return not isinstance(node, Leaf) or not node.operations


def by_table(node: Formula) -> Array:
    """The table of 256 values of a formula for which `is_table` holds.

    Raises:
        UncertainError: NumPy would warn of some value, which an image need not hold.
    """
    ramp = np.arange(256, dtype=np.uint8)[None]
    table: Array = evaluate(node, lambda _: ramp)[0]
    return table


def tool_of(node: Any) -> str:
    """The tool of the outermost function that has a name for it."""
    if not isinstance(node, Formula):
        return "arithmetic"
    tools = [FUNCTIONS[node.function].tool, *map(tool_of, node.arguments)]
    return next((tool for tool in tools if tool != "arithmetic"), "arithmetic")


def leaves_of(node: Any) -> list[Leaf]:
    """The leaves of a formula."""
    if isinstance(node, Leaf):
        return [node]
    return [leaf for part in node.arguments for leaf in leaves_of(part)] if isinstance(node, Formula) else []


def written(node: Any, leaf: Callable[[Leaf], str]) -> str:
    """A formula as Python."""
    if isinstance(node, Leaf):
        return f"np.array({leaf(node)})"
    if not isinstance(node, Formula):
        return repr(node)
    parts = [written(argument, leaf) for argument in node.arguments]
    return FUNCTIONS[node.function].template.format(*parts, all=", ".join(parts))
