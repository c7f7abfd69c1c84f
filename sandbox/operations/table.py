"""The operations that a lifted program may hold: parameters and their ranges, size, frame, tool, and the call itself.

Sizes are (width, height) in pixels. The calls are the library's own: a lifted program gives its bits and its messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.geometry import PILLOW_TRANSPOSE, Affine, Size
from sandbox.operations.formula_functions import FUNCTIONS, Shape
from sandbox.operations.formulas import (
    Formula,
    Leaf,
    UncertainError,
    by_table,
    describe,
    evaluate,
    is_table,
    leaves_of,
    parts_of,
    written,
)
from sandbox.operations.opencv import OPENCV_OPERATIONS
from sandbox.operations.operation import Bound, Kind, Operation, State, Values
from sandbox.operations.parameters import Parameter
from sandbox.operations.pillow import PILLOW_OPERATIONS


def run_operations(operations: Sequence[Operation], image: Image.Image) -> Image.Image:
    """The image after some operations; raises what a call raises."""
    for operation in operations:
        image = OPERATIONS[operation.name].call(image, operation.values)
    return image


def _is_formula(value: object) -> bool | None:
    return True if isinstance(value, Formula) else None


def _computed(image: Image.Image, values: Values) -> Image.Image:
    formula: Formula = values[0]
    if is_table(formula):
        try:
            return Image.fromarray(cv2.LUT(np.asarray(image), by_table(formula)))
        except UncertainError:  # of a value that the image may not hold
            pass
    return Image.fromarray(evaluate(formula, lambda leaf: np.asarray(run_operations(leaf.operations, image))))


def shape_after(formula: Formula, state: State) -> Shape | None:
    """What a formula gives of an image in this state; None where it fails."""

    def of_leaf(node: Any) -> Shape | None:
        if not isinstance(node, Leaf):
            return None
        after = state_after(node.operations, state)
        return Shape(after.size, is_gray=after.mode == "L")

    return describe(formula, of_leaf)


def state_after(operations: Sequence[Operation], state: State) -> State:
    """State of an image after some operations."""
    for operation in operations:
        state = OPERATIONS[operation.name].after(operation.values, state)
    return state


def _after_formula(values: Values, state: State) -> State:
    shape = shape_after(values[0], state)
    if shape is None or shape.size is None:
        raise ValueError("a formula without an image")
    return State(shape.size, "L" if shape.is_gray else "RGB")


def _formula_frame(values: Values, size: Size) -> Affine | None:
    """Leaves stay in their place (who builds a formula sees to that), unless images are put together."""
    return None if FUNCTIONS[values[0].function].tool == "concatenate" else Affine()


def _formula_cost(values: Values) -> float:
    return 100.0 * parts_of(values[0]) + sum(
        OPERATIONS[operation.name].cost(operation.values)
        for leaf in leaves_of(values[0])
        for operation in leaf.operations
    )


#: Every operation that a program may hold, by name.
OPERATIONS: dict[str, Kind] = {
    **PILLOW_OPERATIONS,
    **OPENCV_OPERATIONS,
    "np.formula": Kind(
        "arithmetic",
        _computed,
        "Image.fromarray({args})",
        (Parameter("formula", _is_formula),),
        after=_after_formula,
        frame=_formula_frame,
        cost=_formula_cost,
        bound=Bound(reason="time and memory grow with its parts"),
    ),
}

_CONSTANTS = {name: f"Image.Transpose.{method.name}" for name, method in PILLOW_TRANSPOSE.items()}


def write(operation: Operation, x: str) -> str:
    """The call of an operation on the image `x`, as Python; statements of several lines where it changes `x`."""
    kind = OPERATIONS[operation.name]
    arguments = []
    for index, (parameter, value) in enumerate(zip(kind.parameters, operation.values, strict=True)):
        if isinstance(value, Formula):
            arguments.append(written(value, lambda leaf: _write_all(leaf.operations, x)))
        elif index == 0 and not parameter.by_name:
            arguments.append(_CONSTANTS[value] if operation.name == "orient" else repr(value))
        elif parameter.default is ... or value != parameter.default or type(value) is not type(parameter.default):
            arguments.append(f"{parameter.name}={value!r}")
    text = kind.template.format(*map(repr, operation.values), x=x, args=", ".join(arguments))
    return text.replace(", )", ")")


def _write_all(operations: Sequence[Operation], x: str) -> str:
    for operation in operations:
        x = write(operation, x)
    return x


def write_statement(operation: Operation, name: str) -> str:
    """An operation that gives `name` its new value, as Python."""
    text = write(operation, name)
    return text if "\n" in text else f"{name} = {text}"
