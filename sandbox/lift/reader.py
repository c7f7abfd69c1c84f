"""Reads a snippet as a `ToolProgram`, or says why it cannot be read. Nothing is ever evaluated.

The reader walks the syntax tree as the interpreter would, with pictures that are only described. It knows few calls
and knows them exactly; whatever it does not know with certainty raises `NotLiftableError`, so a program that comes out
does, bit for bit, what the snippet does.
"""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sandbox.geometry import Size
from sandbox.lift.calls import PROVIDED, SUBMODULES
from sandbox.lift.expressions import Expressions
from sandbox.lift.grids import set_item
from sandbox.lift.symbols import Canvas, DoomedError, Grid, KnownFaultError, Name, NotLiftableError, Picture
from sandbox.messages import RESULT_NAMES
from sandbox.operations.program import ToolProgram

_IMPORTS = {"PIL": "PIL", "numpy": "np", "cv2": "cv2", "math": "math"}
#: Statements that a snippet may run, those of loops once for each turn.
_MAX_STATEMENTS = 1000


@dataclass(frozen=True)
class Unliftable:
    """The snippet cannot be read with certainty: `reason`, in line `line`."""

    reason: str
    line: int = 1


@dataclass(frozen=True)
class Fault:
    """The snippet raises for certain, before any library call fails.

    Attributes:
        kind: Name of the exception's type.
        message: Its text.
        line: Where it is raised, 1-based.
        text: What was printed before.
    """

    kind: str
    message: str
    line: int
    text: str = ""


Lifted = ToolProgram | Unliftable | Fault


@lru_cache(maxsize=4096)
def lift(code: str, sizes: tuple[Size, ...], image_index: int = 0, persists: bool = False) -> Lifted:
    """Read `code`, given the size of each image of the trajectory (width, height) and the index of the chosen one.

    Args:
        code: Python source.
        sizes: Size of every image, all RGB.
        image_index: Which of them `image` and `img` name.
        persists: Whether names of earlier snippets may be alive, so that an unknown name is no certain error.
    """
    reader = _Reader(sizes, image_index, persists=persists)
    try:
        tree = _quietly(lambda: ast.parse(code, _FILE))
        lifted = reader.read(tree)
        if not isinstance(lifted, ToolProgram) or not reader.is_plain:  # some errors come only now; nothing is run
            _quietly(lambda: compile(tree, _FILE, "exec", dont_inherit=True))
    except SyntaxError as error:
        return Fault(type(error).__name__, error.msg, min(error.lineno or 1, code.count("\n") + 1))
    except SyntaxWarning as warning:
        return Unliftable(str(warning))
    except (RecursionError, MemoryError):  # of our own stack, which is deeper than a worker's
        return Unliftable("the code is nested too deeply")
    except (ValueError, OverflowError) as error:
        return Fault("SyntaxError", str(error) or "the code is nested too deeply", 1)
    return lifted


_FILE = "<code>"
_WARNINGS_LOCK = threading.Lock()


def _quietly(call: Callable[[], Any]) -> Any:
    """What a call of the compiler gives.

    Raises:
        SyntaxWarning: It warns; a run would print that.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SyntaxWarning)
        result = call()
    for warning in caught:
        if issubclass(warning.category, SyntaxWarning) and warning.filename == _FILE:
            raise SyntaxWarning(str(warning.message))
    return result


def _check_name(name: str) -> None:
    if name.startswith("__"):
        raise NotLiftableError(f"a new {name}")


def _loaded(node: ast.expr) -> ast.expr:
    """The expression with every target in it read."""
    match node:
        case ast.Name():
            return ast.Name(node.id, ast.Load())
        case ast.Subscript():
            return ast.Subscript(node.value, node.slice, ast.Load())
        case _:
            raise NotLiftableError("a change of something else than a name")


class _Reader(Expressions):
    """Runs statements over described pictures."""

    def __init__(self, sizes: Sequence[Size], image_index: int, *, persists: bool) -> None:
        super().__init__(sizes, image_index, persists=persists)
        self._index = image_index
        self._binds = False
        self._n_statements = 0

    def read(self, tree: ast.Module) -> Lifted:
        """What the snippet is, if it compiles."""
        try:
            return self._outcome(tree)
        except NotLiftableError as error:
            return Unliftable(str(error), self.line)
        except Exception as error:  # noqa: BLE001 - what trips the reader is not certain, hence does not lift
            return Unliftable(f"what the reader does not know ({type(error).__name__})", self.line)

    def _outcome(self, tree: ast.Module) -> Lifted:
        try:
            with np.errstate(all="raise"):  # what NumPy warns of would be printed
                self.run(tree.body)
            return self.program()
        except KnownFaultError as fault:
            self.check_quiet(())
            return Fault(fault.kind, str(fault), self.line, self.text)
        except DoomedError as doomed:
            return self.program_of(doomed.picture)

    def run(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self._n_statements += 1
            if self._n_statements > _MAX_STATEMENTS:
                raise NotLiftableError("a long loop")
            self.line = statement.lineno
            self._run_one(statement)

    def _run_one(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign():
                value = self.value(statement.value)
                for target in statement.targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=ast.Name(), value=ast.expr() as expression, simple=1):
                self.is_plain = False
                self._assign(statement.target, self.value(expression))
                self._check_annotation(statement.annotation)
            case ast.Expr():
                self._expression(statement.value)
            case ast.If() | ast.For(orelse=[]):
                self._branch(statement)
            case ast.AugAssign():
                self._augment(statement)
            case ast.Import() | ast.ImportFrom():
                self._import(statement)
            case ast.Pass():
                pass
            case _:
                raise NotLiftableError(f"a statement of kind {type(statement).__name__}")

    def _expression(self, expression: ast.expr) -> None:
        match expression:
            case ast.Call(func=ast.Name(id="print")) if "print" not in self.names:
                self.print(expression)
            case ast.Constant():
                pass
            case _:
                self.value(expression)

    def _check_annotation(self, annotation: ast.expr) -> None:
        """It is evaluated too."""
        match annotation:
            case ast.Name(id="int" | "float" | "str" | "bool" | "list" | "tuple" as name) if name not in self.names:
                return
            case ast.Attribute(value=ast.Name(id="Image" | "np" as name), attr="Image" | "ndarray" as attribute):
                if self.names[name] == Name(name) and f"{name}.{attribute}" in {"Image.Image", "np.ndarray"}:
                    return
        raise NotLiftableError("an annotation that is not read here")

    def _branch(self, statement: ast.If | ast.For) -> None:
        self.is_plain = False
        if isinstance(statement, ast.If):
            self.run(statement.body if self.truth(self.value(statement.test)) else statement.orelse)
            return
        for value in self.turns(statement.iter):
            self._assign(statement.target, value)
            self.run(statement.body)

    def _augment(self, statement: ast.AugAssign) -> None:
        """`x += 1`: only of numbers and texts, which nothing else can see change, and of a number in an array."""
        old = self.value(ast.copy_location(_loaded(statement.target), statement))
        new = self.value(statement.value)
        if not isinstance(old, int | float | str) or not isinstance(new, int | float | str):
            raise NotLiftableError("an array, or a list, that is changed in place")
        self._assign(statement.target, self.combine(statement.op, old, new))

    def _assign(self, target: ast.expr, value: object) -> None:
        if isinstance(target, ast.Subscript):
            owner = self.value(target.value)
            if not isinstance(owner, Grid):
                raise NotLiftableError("an assignment to a part of something")
            set_item(owner, self.value(target.slice), value)
            return
        if isinstance(target, ast.Name):
            _check_name(target.id)
            self.names[target.id] = value
            self._binds |= target.id not in RESULT_NAMES
            return
        if not isinstance(target, ast.Tuple | ast.List) or not isinstance(value, tuple | list):
            raise NotLiftableError("an assignment to something else than names")
        if len(value) != len(target.elts) or any(isinstance(part, ast.Starred) for part in target.elts):
            raise NotLiftableError("an assignment of another number of values")
        for part, item in zip(target.elts, value, strict=True):
            self._assign(part, item)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            raise NotLiftableError("a relative import")
        for alias in statement.names:
            _check_name(alias.asname or alias.name)
            self._binds |= (alias.asname or alias.name) not in PROVIDED
            if isinstance(statement, ast.Import):
                if alias.name not in _IMPORTS:
                    raise NotLiftableError(f"import of {alias.name}")
                self.names[alias.asname or alias.name] = Name(_IMPORTS[alias.name])
            elif statement.module == "PIL" and alias.name in SUBMODULES:
                self.names[alias.asname or alias.name] = Name(alias.name)
            elif statement.module == "PIL" and alias.name in PROVIDED and alias.name.startswith("Image"):
                self.names[alias.asname or alias.name] = Name(f"PIL.{alias.name}")
            else:
                raise NotLiftableError(f"import of {alias.name} from {statement.module}")

    def program(self) -> ToolProgram:
        """The program that leads to the result."""
        for name in RESULT_NAMES:
            value = self.names.get(name)
            if isinstance(value, Canvas) and value.picture is None:
                raise NotLiftableError(f"{name} holds no image yet")
            if isinstance(value, Canvas):
                value = value.picture
            if value is None or (name in {"img", "image"} and value is self.chosen and not self.chosen.is_changed):
                if value is self.chosen and value.is_drawn:
                    raise NotLiftableError("drawing that may have changed nothing")
                continue
            if not isinstance(value, Picture):
                raise NotLiftableError(f"{name} is no image")
            return self.program_of(value)
        self.check_quiet(())
        return ToolProgram(text=self.text, has_result=False, binds=self._binds)

    def program_of(self, picture: Picture) -> ToolProgram:
        """The program that leads to `picture`."""
        self.check_quiet(picture.operations)
        source = None if picture.source == self._index else picture.source
        sizes = tuple(state.size for state in picture.states)
        missing = len(picture.operations) + 1 - len(sizes)
        return ToolProgram(picture.operations, source, self.text, binds=self._binds, sizes=(*sizes, *[None] * missing))
