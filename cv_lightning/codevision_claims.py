"""Tools and boxes that CodeVision's release finds in the code and the description of a call.

This is the reward's preset "published", for comparison with the paper. It reads claims, not effects: a comment, dead
code or a description can earn credit for an effect that the code does not have, and a box has no link to its image. The
rules reimplement `tool_use_judge.py` in github.com/ByteDance-BandAI/CodeVision at e098588; docs/rewards.md lists what
they count and what they miss. If the rules find nothing in a call, the release asks a language model; this module does
not.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

from cv_lightning.types import Box

Value = float | list[float]

_QUARTERS = {90: "rotate_90", 180: "rotate_180", 270: "rotate_270"}
#: Degrees by which an angle may miss a quarter turn.
_TOLERANCE = 5.0

_ROTATE = re.compile(r"\.rotate\(\s*([^,)]+)(?:,[^)]*)?\)")
#: `k` counts only as a keyword directly after a first argument that contains no call; otherwise it is 1.
_ROT90 = re.compile(r"np\.rot90\(\s*[^,\s)]+\s*(?:,\s*k\s*=\s*([-+]?\d+))?")

_MOVES = {
    "rotate_90": r"transpose\(\s*Image\.ROTATE_90\s*\)|cv2\.rotate\([^,)]*,\s*cv2\.ROTATE_90_COUNTERCLOCKWISE\s*\)",
    "rotate_180": r"transpose\(\s*Image\.ROTATE_180\s*\)|cv2\.rotate\([^,)]*,\s*cv2\.ROTATE_180\s*\)",
    "rotate_270": r"transpose\(\s*Image\.ROTATE_270\s*\)|cv2\.rotate\([^,)]*,\s*cv2\.ROTATE_90_CLOCKWISE\s*\)",
    "flip_horizontal": r"ImageOps\.mirror|transpose\(\s*Image\.FLIP_LEFT_RIGHT\s*\)",
    "flip_vertical": r"ImageOps\.flip|transpose\(\s*Image\.FLIP_TOP_BOTTOM\s*\)",
}
#: The release uses finer names; the formula only needs to know whether a tool outside the core was used.
_OTHERS = {
    "enhance": r"ImageEnhance\.(?:Brightness|Contrast|Sharpness|Color)\s*\([^)]+\)\s*\.enhance\([^)]+\)",
    "filter": r"ImageFilter\.(?i:(?:Box|Gaussian)?Blur|MedianFilter|Sharpen|UnsharpMask|Smooth|Smooth_More|Detail"
    r"|Find_Edges|Edge_Enhance[a-z_]*)(?![A-Za-z_])",
    "grayscale": r"\.convert\(\s*['\"]L['\"]\s*\)|cv2\.cvtColor\([^,]+,\s*cv2\.COLOR_(?:BGR|RGB)2GRAY\s*\)",
    "resize": r"\.resize\(\s*\([^)]+\)\s*\)|ImageOps\.fit\([^,]+,\s*\([^)]+\)\s*\)",
    "color": r"ImageOps\.(?:autocontrast|equalize|invert|solarize|posterize)\([^)]*\)",
    "opencv": r"cv2\.(?:GaussianBlur|blur|boxFilter|medianBlur|Canny|Sobel|Laplacian|erode|dilate|equalizeHist)"
    r"\([^)]*\)|cv2\.convertScaleAbs\([^)]*\b(?:alpha|beta)\s*=\s*[-+]?\d[^)]*\)",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in (_MOVES | _OTHERS).items()}

_NUMBER = r"\s*([-+]?[\d.]+)\s*"
_FOUR = ",".join([_NUMBER] * 4)
_LITERAL_CROP = re.compile(rf"\.crop\(\({_FOUR}\)\s*\)")
_IN_BRACKETS = (re.compile(rf"\[{_FOUR}\]"), re.compile(rf"\({_FOUR}\)"))

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"int": int, "float": float, "abs": abs, "min": min, "max": max}


def claimed_tools(code: str, description: str = "") -> frozenset[str]:
    """The tools that a call mentions: core tools by name, other tools by family."""
    tools = {name for name, pattern in _PATTERNS.items() if pattern.search(code)}
    tools |= {tool for angle in _angles(code) if (tool := _quarter(angle)) is not None}
    words = description.lower()
    if "horizontal" in words and ("flip" in words or "mirror" in words):
        tools.add("flip_horizontal")
    if "vertical" in words and "flip" in words:
        tools.add("flip_vertical")
    if "crop" in words or _boxes_of_code(code):
        tools.add("crop")
    return frozenset(tools)


def claimed_boxes(code: str, description: str = "") -> list[Box]:
    """The boxes (x1, y1, x2, y2) of a call's crops; if its code has none, the first box in its description."""
    boxes = _boxes_of_code(code)
    for brackets in () if boxes else _IN_BRACKETS:
        match = brackets.search(description)
        box = None if match is None else _box(match.groups())
        if box is not None:
            return [box]
    return boxes


def _angles(code: str) -> Iterator[float]:
    """The rotation angles in the code, in degrees counter-clockwise."""
    for match in _ROTATE.finditer(code):
        node = _parsed(match[1].strip(), "eval")
        value = None if node is None else _value(node, {})
        if isinstance(value, float):
            yield value
    for match in _ROT90.finditer(code):
        yield 90.0 * int(match[1] or 1)


def _quarter(angle: float) -> str | None:
    return next((tool for turn, tool in _QUARTERS.items() if abs((angle - turn + 180) % 360 - 180) <= _TOLERANCE), None)


def _boxes_of_code(code: str) -> list[Box]:
    literal = [_box(match.groups()) for match in _LITERAL_CROP.finditer(code)]
    found = [*_evaluated_crops(code), *literal]
    return list(dict.fromkeys(tuple(round(side, 6) for side in box) for box in found if box is not None))  # type: ignore[misc]


def _box(sides: Sequence[str]) -> Box | None:
    try:
        x1, y1, x2, y2 = (float(side) for side in sides)
    except ValueError:
        return None
    return x1, y1, x2, y2


def _evaluated_crops(code: str) -> list[Box]:
    """The boxes of `.crop` calls, computed from values that are assigned on earlier lines."""
    module = _parsed(code, "exec")
    if module is None:
        return []
    nodes = [node for node in ast.walk(module) if isinstance(node, ast.stmt | ast.Call)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    boxes: list[Box] = []
    values: dict[str, Value] = {}
    n_done = 0
    for node in nodes:
        while nodes[n_done].lineno < node.lineno:
            _assign(nodes[n_done], values)
            n_done += 1
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "crop"
            and node.args
        ):
            box = _value(node.args[0], values)
            if isinstance(box, list) and len(box) == 4:
                boxes.append((box[0], box[1], box[2], box[3]))
    return boxes


def _parsed(text: str, mode: str) -> ast.AST | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the policy's code
            tree = ast.parse(text, mode=mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree.body if isinstance(tree, ast.Expression) else tree


def _assign(node: ast.AST, values: dict[str, Value]) -> None:
    """Carry out an assignment if its value is known; otherwise the name keeps its old value."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        changed = ast.BinOp(ast.Name(node.target.id), node.op, node.value)
        targets, value = [node.target], _value(changed, values)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], _value(node.value, values)  # type: ignore[list-item]
    elif isinstance(node, ast.Assign):
        targets, value = node.targets, _value(node.value, values)  # type: ignore[assignment]
    else:
        return
    for target in targets if value is not None else ():
        if isinstance(target, ast.Name):
            values[target.id] = value  # type: ignore[assignment]
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, list):
            names = [element.id for element in target.elts if isinstance(element, ast.Name)]
            values |= dict(zip(names, value, strict=True)) if len(names) == len(value) else {}


def _value(node: ast.AST, values: dict[str, Value]) -> Value | None:
    """The number or list of numbers that a node gives by arithmetic alone; None for any other node."""
    try:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return values.get(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return _number(operand, values) * (-1 if isinstance(sign, ast.USub) else 1)
            case ast.BinOp(left=left, op=kind, right=right):
                return float(_ARITHMETIC[type(kind)](_number(left, values), _number(right, values)))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return [_number(element, values) for element in elements]
            case ast.Call(func=ast.Name(id="tuple" | "list"), args=[ast.Tuple() | ast.List() as elements]):
                return _value(elements, values)
            case ast.Call(func=ast.Name(id="round"), args=[number, *digits]):
                return float(round(_number(number, values), *(int(_number(digit, values)) for digit in digits[:1])))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return float(_FUNCTIONS[name](*(_number(argument, values) for argument in arguments)))
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError):
        pass
    return None


def _number(node: ast.AST, values: dict[str, Value]) -> float:
    """The number that a node gives; raises TypeError for anything else."""
    value = _value(node, values)
    if not isinstance(value, float):
        raise TypeError("no number")
    return value
