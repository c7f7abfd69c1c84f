"""The expressions of a snippet, read over described pictures and constants; see `sandbox.lift.reader`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from sandbox.geometry import Size
from sandbox.lift import arithmetic
from sandbox.lift.arithmetic import SIGNS, is_pixels
from sandbox.lift.calls import BUILTINS, LIBRARIES, MAX_TURNS, PROVIDED, Calls
from sandbox.lift.constants import check_small
from sandbox.lift.grids import operate_on_grids
from sandbox.lift.symbols import (
    Canvas,
    Closure,
    DoomedError,
    Grid,
    KnownFaultError,
    Name,
    NotLiftableError,
    Pen,
    Picture,
    Wide,
    append,
)
from sandbox.operations.formulas import Leaf, parts_of, serials_of
from sandbox.operations.operation import Operation, State

#: Values that may be computed while reading, large ones counted several times.
_MAX_PARTS = 20_000


class Expressions(Calls):
    """Values of expressions, in the interpreter's order of evaluation.

    Attributes:
        names: What each name of the snippet stands for.
        chosen: The picture behind `image` and `img`.
        line: Line of the statement or call that is being read.
    """

    def __init__(self, sizes: Sequence[Size], image_index: int, *, persists: bool) -> None:
        self._images = [Picture(index, (State(size),)) for index, size in enumerate(sizes)]
        self._persists = persists
        self._n_parts = 0
        self._serials: set[int] = set()
        self._is_within = False
        self.chosen = self._images[image_index]
        self.line = 1
        self.names: dict[str, Any] = {name: Name("np" if name == "numpy" else name) for name in LIBRARIES | {"numpy"}}
        self.names |= {"image": self.chosen, "img": self.chosen, "images": self._images}
        self.names |= {f"image_{index}": picture for index, picture in enumerate(self._images)}
        self.names["draw"] = Pen(self.chosen, self.chosen.operations)

    def value(self, node: ast.expr) -> Any:
        """What the expression gives.

        Raises:
            NotLiftableError: Where that is not certain.
            KnownFaultError: Where it raises.
            DoomedError: Where a library call raises.
        """
        reader = getattr(self, f"_read_{type(node).__name__.lower()}", None)
        if reader is None:
            raise NotLiftableError(f"an expression of kind {type(node).__name__}")
        value = reader(node)
        self._n_parts += 1
        if isinstance(value, Wide):
            self._n_parts += 10 * parts_of(value.formula)
            self._serials.add(value.formula.serial)
        elif isinstance(value, Picture):
            self._n_parts += 10 + len(value.operations) // 16
            if value.operations and value.operations[-1].name == "np.formula":
                self._serials.add(value.operations[-1].values[0].serial)
        if self._n_parts > _MAX_PARTS:
            raise NotLiftableError("a long computation")
        return value

    def check_quiet(self, operations: Sequence[Operation]) -> None:
        """Every computation of which NumPy may warn must be part of some operations: what is not run does not warn.

        Raises:
            NotLiftableError: One is not.
        """
        if not self._serials <= {0} | serials_of(Leaf(tuple(operations))):
            raise NotLiftableError("a computation that is not used")

    def _read_name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            value = self.names[node.id]
            return value.picture if isinstance(value, Canvas) and value.picture is not None else value
        if node.id in {"int", "float"}:
            return Name(node.id)
        if node.id in PROVIDED or node.id in BUILTINS or node.id.startswith("__") or self._persists:
            raise NotLiftableError(f"the name {node.id}")
        raise KnownFaultError("NameError", f"name {node.id!r} is not defined")

    def operate(self, sign: ast.operator | ast.cmpop | ast.unaryop, left: Any, right: Any) -> Any:
        """An operator with an array on a side; see `Constants.operate` for others."""
        if isinstance(left, Grid) or isinstance(right, Grid):
            return operate_on_grids(sign, left, right)
        if isinstance(sign, ast.Invert) and isinstance(left, Picture) and left.is_array:
            return append(left, "cv2.bitwise_not", (), self.line)
        if isinstance(sign, ast.USub) and is_pixels(left):
            return arithmetic.compute("negative", (left,), self.line)
        if (is_pixels(left) or is_pixels(right)) and type(sign) in SIGNS:
            return arithmetic.operate(SIGNS[type(sign)], left, right, self.line)
        return super().operate(sign, left, right)

    def _read_lambda(self, node: ast.Lambda) -> Closure:
        names, self.is_plain = node.args, False
        if (
            self._is_within  # its names would be those of the last turn
            or len(names.args) != 1
            or names.posonlyargs
            or names.kwonlyargs
            or names.vararg
            or names.kwarg
            or names.defaults
        ):
            raise NotLiftableError("a function of several arguments")
        return Closure(lambda value: self._with_name(names.args[0].arg, value, node.body))

    def _with_name(self, name: str, value: Any, body: ast.expr) -> Any:
        """What an expression gives where `name` stands for `value`; a fault in it has a line of its own."""
        hidden, is_within = self.names.get(name, _NOTHING), self._is_within
        self.names[name], self._is_within = value, True
        try:
            return self.value(body)
        except (KnownFaultError, DoomedError):
            raise NotLiftableError("a fault in a line of its own") from None
        finally:
            self._is_within = is_within
            if hidden is _NOTHING:
                del self.names[name]
            else:
                self.names[name] = hidden

    def turns(self, node: ast.expr) -> list[Any]:
        """What a loop goes over."""
        value = self.value(node)
        if isinstance(value, Grid):
            value = list(value.array) if value.array.ndim == 1 else None
        if not isinstance(value, tuple | list | range) or len(value) > MAX_TURNS:
            raise NotLiftableError("a loop that is not read here")
        return list(value)

    def _read_listcomp(self, node: ast.ListComp) -> list[Any]:
        (loop,) = node.generators if len(node.generators) == 1 else (None,)
        if loop is None or loop.ifs or loop.is_async or not isinstance(loop.target, ast.Name):
            raise NotLiftableError("a list that is not read here")
        self.is_plain = False
        elements = [self._with_name(loop.target.id, value, node.elt) for value in self.turns(loop.iter)]
        check_small(elements)
        return elements


_NOTHING = object()
