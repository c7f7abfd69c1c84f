"""Reads a snippet as a `ToolProgram`, or says why it cannot be read. Nothing is ever evaluated.

The reader goes through the statements as the interpreter would, but pictures are only described. It knows few calls,
but knows them exactly, and refuses everything that it does not know with certainty. So the resulting program does
exactly, bit for bit, what the snippet does. Statements run one after the other; there are no loops, conditions or
functions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sandbox.geometry import Size
from sandbox.lift import calls, constants
from sandbox.lift.array_calls import sliced
from sandbox.lift.values import Arguments, KnownFaultError, Name, NotLiftableError, Pen, Picture, Value
from sandbox.messages import RESULT_NAMES
from sandbox.operations.operation import State
from sandbox.operations.parameters import is_integer
from sandbox.operations.program import ToolProgram

#: Limits on the number and the nesting of a syntax tree's nodes: the cost of reading, and the depth safe for a worker.
_MAX_NODES = 1000
_MAX_DEPTH = 100
#: Code for which Python's parser warns, which a run would print: unknown escapes, and numbers that run into a word.
_WARNS = re.compile(r"\\[^\n\\'\"abfnrtvxuUN]|\b\d[\w.]*?(?:and|else|for|if|in|is|or|not)\b")


@dataclass(frozen=True)
class Unliftable:
    """The snippet cannot be read with certainty: the reason, its line, and what to write instead."""

    reason: str
    line: int = 1
    remedy: str = ""


@dataclass(frozen=True)
class Fault:
    """The snippet certainly raises, before any library call fails.

    Attributes:
        kind: Name of the exception's type.
        message: Its text.
        line: The line that raises, 1-based.
        text: The text that was printed before.
    """

    kind: str
    message: str
    line: int
    text: str = ""


Reading = ToolProgram | Unliftable | Fault


@lru_cache(maxsize=4096)
def lift(code: str, sizes: tuple[Size, ...], image_index: int = 0, persists: bool = False) -> Reading:
    """Read `code`, given the size (width, height) of each image of the trajectory and the index of the chosen one.

    Args:
        code: Python source.
        sizes: Size of every image, all RGB.
        image_index: Index of the image that `image` and `img` name.
        persists: Whether names of earlier snippets may be alive, so that an unknown name is not certainly an error.
    """
    if _WARNS.search(code):
        return Unliftable("an unusual escape")
    try:
        tree = ast.parse(code, "<code>")
    except SyntaxError as error:
        return Fault(type(error).__name__, error.msg, min(error.lineno or 1, code.count("\n") + 1))
    except (RecursionError, MemoryError, ValueError, OverflowError):  # deep in our own stack, deeper than in a worker's
        return Unliftable("code that is nested deeply")
    if _is_large(tree):
        return Unliftable("long code")
    return _Reader(sizes, image_index, persists=persists).read(tree)


def _is_large(tree: ast.AST) -> bool:
    """Whether a syntax tree has many nodes, or is deep."""
    level, n_nodes, depth = [tree], 0, 0
    while level and n_nodes <= _MAX_NODES and depth <= _MAX_DEPTH:
        n_nodes, depth = n_nodes + len(level), depth + 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return bool(level)


class _Reader:
    """The state of reading one snippet.

    Attributes:
        names: The value of each name.
        line: The line that is being read.
        text: The text printed so far.
    """

    def __init__(self, sizes: Sequence[Size], image_index: int, *, persists: bool) -> None:
        images = [Picture(index, (State(size),)) for index, size in enumerate(sizes)]
        self._index, self._persists = image_index, persists
        self._chosen = images[image_index]
        self._binds = False
        self.line = 1
        self.text = ""
        self.names: dict[str, Value] = dict(calls.PROVIDED)
        self.names |= {"image": self._chosen, "img": self._chosen, "images": [*images], "draw": Pen(self._chosen)}
        self.names |= {f"image_{index}": picture for index, picture in enumerate(images)}

    def read(self, tree: ast.Module) -> Reading:
        """Read the whole snippet."""
        try:
            for statement in tree.body:
                self.line = statement.lineno
                self._run(statement)
            return self._program()
        except NotLiftableError as error:
            return Unliftable(error.reason, self.line, error.remedy)
        except KnownFaultError as fault:
            return Fault(fault.kind, str(fault), self.line, self.text)
        except Exception as error:  # noqa: BLE001 - the reader failed, so nothing is certain: the code does not lift
            return Unliftable(f"what the reader does not know ({type(error).__name__})", self.line)

    def _run(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign():
                value = self.value(statement.value)
                for target in statement.targets:
                    self._assign(target, value)
            case ast.Expr(value=ast.Call(func=ast.Name(id="print")) as call) if "print" not in self.names:
                self._print(call)
            case ast.Expr():
                self.value(statement.value)
            case ast.Import():
                for alias in statement.names:
                    self._bind(alias.asname or alias.name, calls.module(alias.name))
            case ast.ImportFrom(module="PIL", level=0):
                for alias in statement.names:
                    self._bind(alias.asname or alias.name, calls.part_of_pillow(alias.name))
            case ast.ImportFrom():
                raise NotLiftableError(f"import of {statement.module}")
            case _:
                raise NotLiftableError(*_REMEDIES.get(type(statement), (f"a statement ({type(statement).__name__})",)))

    def _print(self, call: ast.Call) -> None:
        if call.keywords:
            raise NotLiftableError("print with keywords")
        self.text += " ".join(constants.shown(self.value(argument)) for argument in call.args) + "\n"
        constants.bounded(self.text)

    def _assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name():
                self._bind(target.id, value)
            case ast.Tuple() | ast.List() if isinstance(value, tuple | list) and len(value) == len(target.elts):
                for part, item in zip(target.elts, value, strict=True):
                    self._assign(part, item)
            case _:
                raise NotLiftableError("an assignment to a part of something", "make a new image or array")

    def _bind(self, name: str, value: Value) -> None:
        if name.startswith("__"):
            raise NotLiftableError(f"a new {name}")
        self.names[name] = value
        self._binds |= name not in RESULT_NAMES and value != calls.PROVIDED.get(name)

    def value(self, node: ast.expr) -> Value:
        """The value of an expression.

        Raises:
            NotLiftableError: The value is not certain.
            KnownFaultError: The expression raises.
        """
        read = _EXPRESSIONS.get(type(node))
        if read is None:
            raise NotLiftableError(*_REMEDIES.get(type(node), (f"an expression ({type(node).__name__})",)))
        return read(self, node)

    def _name(self, node: ast.Name) -> Value:
        if node.id in self.names:
            return self.names[node.id]
        self.line = node.lineno
        if calls.is_builtin(node.id) or self._persists:
            raise NotLiftableError(f"the name {node.id}")
        raise KnownFaultError("NameError", f"name {node.id!r} is not defined")

    def _constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, bytes | complex) or node.value is ...:
            raise NotLiftableError(f"a constant {type(node.value).__name__}")
        return constants.bounded(node.value)

    def _sequence(self, node: ast.Tuple | ast.List) -> Value:
        elements = [self.value(element) for element in node.elts]
        constants.check_small(elements)
        return elements if isinstance(node, ast.List) else tuple(elements)

    def _operator(self, node: ast.BinOp) -> Value:
        left = self.value(node.left)
        return constants.compute(node.op, left, self.value(node.right))

    def _sign(self, node: ast.UnaryOp) -> Value:
        return constants.compute(node.op, self.value(node.operand))

    def _formatted(self, node: ast.JoinedStr) -> Value:
        text = ""
        for part in node.values:
            match part:
                case ast.Constant(value=str(piece)):
                    text += piece
                case ast.FormattedValue(conversion=-1, format_spec=None):
                    text += constants.shown(self.value(part.value))
                case ast.FormattedValue(
                    conversion=-1, format_spec=ast.JoinedStr(values=[ast.Constant(value=str(form))])
                ):
                    text += constants.shown(self.value(part.value), form)
                case _:
                    raise NotLiftableError("a format like this", "format by `:.2f` or the like")
        return constants.bounded(text)

    def _attribute(self, node: ast.Attribute) -> Value:
        owner = self.value(node.value)
        self.line = node.end_lineno or self.line
        return calls.attribute(owner, node.attr)

    def _subscript(self, node: ast.Subscript) -> Value:
        owner = self.value(node.value)
        parts = [
            self._index_of(part) for part in (node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])
        ]
        if isinstance(owner, Picture) and owner.is_array:
            return sliced(owner, parts)
        if isinstance(owner, tuple | list) and len(parts) == 1:
            return constants.item(owner, parts[0])
        raise NotLiftableError("a subscript of something other than an array, a tuple or a list")

    def _index_of(self, node: ast.expr) -> Value | slice:
        if not isinstance(node, ast.Slice):
            return self.value(node)
        bounds = [None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)]
        if any(bound is not None and not is_integer(bound) for bound in bounds):
            raise NotLiftableError("a slice with bounds that are no integers", "round them by `int(...)`")
        return slice(*bounds)

    def _call(self, node: ast.Call) -> Value:
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise NotLiftableError("unpacked arguments", "write each argument out")
        match node.func:
            case ast.Attribute():
                owner = self.value(node.func.value)
                self.line = node.func.end_lineno or self.line
                function = calls.method(owner, node.func.attr)
            case ast.Name() if node.func.id not in self.names and node.func.id in constants.BUILTIN_FUNCTIONS:
                function = calls.function(Name(node.func.id))
            case _:
                function = calls.function(self.value(node.func))
        positional = [self.value(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        if len(keywords) < len(node.keywords):
            raise NotLiftableError("a keyword that is given twice")
        return function(Arguments(positional, keywords))

    def _program(self) -> ToolProgram | Unliftable:
        """The program that leads to the result."""
        for name in RESULT_NAMES:
            value = self.names.get(name)
            if value is None or (name in {"img", "image"} and value is self._chosen and not self._chosen.operations):
                continue
            if not isinstance(value, Picture):
                raise NotLiftableError(f"a result of {name} that is no image")
            value.check_started()
            if value is self._chosen and value.operations and name in {"img", "image"}:
                raise NotLiftableError("drawing that may have changed nothing", "assign the image to `result`")
            source = None if value.source == self._index else value.source
            sizes = tuple(state.size for state in value.states)
            program = ToolProgram(value.operations, source, self.text, binds=self._binds, sizes=sizes)
            return program
        return ToolProgram(text=self.text, has_result=False, binds=self._binds)


_EXPRESSIONS: dict[type[ast.expr], Callable[..., Value]] = {
    ast.Name: _Reader._name,
    ast.Constant: _Reader._constant,
    ast.Tuple: _Reader._sequence,
    ast.List: _Reader._sequence,
    ast.BinOp: _Reader._operator,
    ast.UnaryOp: _Reader._sign,
    ast.JoinedStr: _Reader._formatted,
    ast.Attribute: _Reader._attribute,
    ast.Subscript: _Reader._subscript,
    ast.Call: _Reader._call,
}

#: Syntax that is not read, in a policy's words, and what to write instead.
_REMEDIES: dict[type[ast.AST], tuple[str, str]] = {
    ast.For: ("a loop", "write each step out"),
    ast.While: ("a loop", "write each step out"),
    ast.If: ("a condition", "decide from the image size that you were told"),
    ast.IfExp: ("a condition", "decide from the image size that you were told"),
    ast.Compare: ("a comparison", "decide from the image size that you were told"),
    ast.Try: ("`try`", "write the calls without it"),
    ast.FunctionDef: ("a function", "write its statements out"),
    ast.Lambda: ("a function", "use `cv2.threshold` or another call of a library"),
    ast.ListComp: ("a list comprehension", "write its elements out"),
    ast.AugAssign: ("a change in place", "assign the new value to a name"),
}
