"""A snippet as data: the operations of a `ToolProgram`, and its canonical snippet, which lifts to the same program."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox.geometry import Size
from sandbox.operations.operation import Operation
from sandbox.operations.table import write_statement


@dataclass(frozen=True)
class ToolProgram:
    """The operations of a lifted snippet.

    Attributes:
        operations: The operations in the order in which they run.
        source: Index of the image that it starts from; None for the chosen one.
        text: The text that the snippet prints.
        has_result: False for a snippet that only prints.
        binds: Whether the snippet assigns names besides those of the result, which a later snippet might use.
        sizes: Sizes (width, height) before the first and after each operation.
    """

    operations: tuple[Operation, ...] = ()
    source: int | None = None
    text: str = ""
    has_result: bool = True
    binds: bool = field(default=False, compare=False)
    sizes: tuple[Size, ...] = field(default=(), compare=False)


def print_program(program: ToolProgram) -> str:
    """The canonical snippet of a program, in plain Pillow and OpenCV calls."""
    lines = [f"print({program.text[:-1]!r})"] if program.text else []
    if program.has_result:
        lines.append("result = image" if program.source is None else f"result = images[{program.source}]")
        lines += [write_statement(operation, "result") for operation in program.operations]
    return "\n".join(lines)
