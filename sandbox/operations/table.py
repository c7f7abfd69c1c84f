"""Every operation that a lifted program may contain, and its Python text."""

from __future__ import annotations

from sandbox.geometry import PILLOW_TRANSPOSE
from sandbox.operations.opencv import OPENCV_OPERATIONS
from sandbox.operations.operation import Kind, Operation
from sandbox.operations.pillow import PILLOW_OPERATIONS

#: Every operation, by name. The calls are the library's own, so a lifted program gives the library's bits.
OPERATIONS: dict[str, Kind] = {**PILLOW_OPERATIONS, **OPENCV_OPERATIONS}

_CONSTANTS = {name: f"Image.Transpose.{method.name}" for name, method in PILLOW_TRANSPOSE.items()}


def write_statement(operation: Operation, name: str) -> str:
    """Write an operation that gives `name` its new value as Python; several lines if it changes `name` in place."""
    kind = OPERATIONS[operation.name]
    arguments = []
    for index, (parameter, value) in enumerate(zip(kind.parameters, operation.values, strict=True)):
        if index == 0 and not parameter.by_name:
            arguments.append(_CONSTANTS[value] if operation.name == "orient" else repr(value))
        elif parameter.default is ... or value != parameter.default or type(value) is not type(parameter.default):
            arguments.append(f"{parameter.name}={value!r}")
    text = kind.template.format(*map(repr, operation.values), x=name, args=", ".join(arguments)).replace(", )", ")")
    return text if "\n" in text else f"{name} = {text}"
