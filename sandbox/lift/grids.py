"""Small arrays of numbers that a snippet writes down (kernels, matrices, lookup tables), computed while reading."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from sandbox.lift.arithmetic import dtype_of
from sandbox.lift.image_calls import parameter_of
from sandbox.lift.symbols import Grid, NotLiftableError, bind, frozen
from sandbox.operations.arrays import DTYPES, MAX_ELEMENTS
from sandbox.operations.parameters import is_integer, is_number

_SIGNS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
    ast.USub: lambda a, _: -a,
}


def grid(array: Any) -> Grid:
    """An array as a symbol.

    Raises:
        NotLiftableError: It is large, or of numbers that are not read here.
    """
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES or not 0 < array.size <= MAX_ELEMENTS:
        raise NotLiftableError("an array that is not read here")
    return Grid(array)


def _computed(call: Callable[[], Any]) -> Grid:
    try:
        with np.errstate(all="raise"):
            return grid(call())
    except (TypeError, ValueError, OverflowError, ArithmeticError, cv2.error):
        raise NotLiftableError("an array that is not read here") from None


def operate_on_grids(sign: ast.AST, left: Any, right: Any) -> Grid:
    """An operator between arrays of numbers, and numbers."""
    values = [value.array if isinstance(value, Grid) else value for value in (left, right)]
    if type(sign) not in _SIGNS or not all(
        isinstance(value, np.ndarray | np.integer) or is_number(value) or value is None for value in values
    ):
        raise NotLiftableError("an operator on arrays that is not read here")
    return _computed(lambda: _SIGNS[type(sign)](*values))


def item(owner: Grid, index: Any) -> Any:
    """A single number of an array."""
    value = owner.array[_place(owner, index)]
    if not isinstance(value, np.generic):
        raise NotLiftableError("a part of an array")
    return value


def set_item(owner: Grid, index: Any, value: Any) -> None:
    """Change a number of an array in place."""
    if not is_number(value):
        raise NotLiftableError("a part of an array that is not read here")
    owner.array[_place(owner, index)] = value


def _place(owner: Grid, index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) != owner.array.ndim or not all(map(is_integer, parts)):
        raise NotLiftableError("an index of an array that is not read here")
    if any(not -size <= part < size for part, size in zip(parts, owner.array.shape, strict=True)):
        raise NotLiftableError("an index beyond an array")
    return tuple(parts)


def grid_method(owner: Grid, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """A method of an array of numbers."""
    if name == "astype":
        (dtype,) = bind((parameter_of("dtype"),), arguments, keywords)
        return _computed(lambda: owner.array.astype(dtype_of(dtype)))
    if name == "copy" and not arguments and not keywords:
        return Grid(owner.array.copy())
    if name == "clip" and len(arguments) == 2 and all(map(is_number, arguments)) and not keywords:
        return _computed(lambda: np.clip(owner.array, *arguments))
    raise NotLiftableError(f"the method {name} of an array of numbers")


def _as_array(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
    """`np.asarray`, which gives the same object where it can."""
    value, dtype = bind((parameter_of("a"), parameter_of("dtype", None)), arguments, keywords)
    if isinstance(value, Grid) and (dtype is None or dtype_of(dtype) == value.array.dtype.name):
        return value
    return _written([value, dtype], {})


def _written(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
    value, dtype = bind((parameter_of("object"), parameter_of("dtype", None)), arguments, keywords)
    if isinstance(value, Grid):
        return grid(value.array.copy()) if dtype is None else grid_method(value, "astype", [dtype], {})
    if not isinstance(value, tuple | list):
        raise NotLiftableError("a call of np.array")
    return _computed(lambda: np.array(value, dtype=None if dtype is None else dtype_of(dtype)))


def _filled(function: Callable[..., Any]) -> Callable[[list[Any], dict[str, Any]], Grid]:
    def read(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
        shape, dtype = bind((parameter_of("shape"), parameter_of("dtype", "float64")), arguments, keywords)
        parts = shape if isinstance(shape, tuple | list) else (shape,)
        if not 1 <= len(parts) <= 2 or not all(is_integer(part) and 0 < part <= MAX_ELEMENTS for part in parts):
            raise NotLiftableError("a shape that is not read here")
        if int(np.prod(parts)) > MAX_ELEMENTS:
            raise NotLiftableError("a large array")
        return _computed(lambda: function(frozen(shape), dtype_of(dtype)))

    return read


def _range(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
    dtype = dtype_of(keywords["dtype"]) if "dtype" in keywords else None
    if not 1 <= len(arguments) <= 3 or not all(is_integer(part) and abs(part) <= MAX_ELEMENTS for part in arguments):
        raise NotLiftableError("a range that is not read here")
    if set(keywords) - {"dtype"}:
        raise NotLiftableError("a range that is not read here")
    return _computed(lambda: np.array(range(*arguments), dtype=dtype or "int64"))


def _element(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
    shape, size = bind((parameter_of("shape"), parameter_of("ksize")), arguments, keywords)
    size = frozen(size)
    if shape not in (cv2.MORPH_RECT, cv2.MORPH_CROSS, cv2.MORPH_ELLIPSE) or not isinstance(size, tuple):
        raise NotLiftableError("an element that is not read here")
    if len(size) != 2 or not all(is_integer(side) and 1 <= side <= 31 for side in size):
        raise NotLiftableError("an element that is not read here")
    return _computed(lambda: cv2.getStructuringElement(shape, size))


def _turn(arguments: list[Any], keywords: dict[str, Any]) -> Grid:
    center, angle, scale = bind(tuple(map(parameter_of, ("center", "angle", "scale"))), arguments, keywords)
    if not isinstance(center, tuple) or len(center) != 2 or not all(map(is_number, (*center, angle, scale))):
        raise NotLiftableError("a rotation that is not read here")
    return _computed(lambda: cv2.getRotationMatrix2D(center, angle, scale))


#: Functions that give an array of numbers.
GRID_FUNCTIONS: dict[str, Callable[[list[Any], dict[str, Any]], Grid]] = {
    "np.array": _written,
    "np.asarray": _as_array,
    "np.ones": _filled(np.ones),
    "np.zeros": _filled(np.zeros),
    "np.eye": _filled(lambda shape, dtype: np.eye(shape if isinstance(shape, int) else -1, dtype=dtype)),
    "np.arange": _range,
    "cv2.getStructuringElement": _element,
    "cv2.getRotationMatrix2D": _turn,
}


def _of_numbers(name: str) -> Callable[[list[Any]], Any]:
    function = getattr(np, name)

    def call(arguments: list[Any]) -> Any:
        if len(arguments) != 1 or not isinstance(arguments[0], int | float | np.integer):
            raise NotLiftableError(f"a call of np.{name}")
        try:
            with np.errstate(all="raise"):
                value = function(arguments[0])
        except (TypeError, ValueError, ArithmeticError):
            raise NotLiftableError(f"a call of np.{name}") from None
        if not isinstance(value, np.generic):
            raise NotLiftableError(f"a call of np.{name}")
        return value

    return call


#: Functions of NumPy that are computed for a single number.
NUMPY_NUMBERS: dict[str, Callable[[list[Any]], Any]] = {
    f"np.{name}": _of_numbers(name)
    for name in ("abs", "absolute", "sqrt", "cos", "sin", "radians", "deg2rad", "floor", "ceil", "round", "exp", "log")
}
