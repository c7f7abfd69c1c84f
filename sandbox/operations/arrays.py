"""Small arrays of numbers (kernels, matrices, lookup tables) as values of an operation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sandbox.operations.parameters import Check

#: Largest number of elements of a table.
MAX_ELEMENTS = 1024
#: Supported number types.
DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True)
class Table:
    """An array of numbers that can be compared, hashed and printed.

    Attributes:
        rows: The numbers, nested as in `ndarray.tolist`.
        dtype: One of `DTYPES`.
    """

    rows: tuple[Any, ...]
    dtype: str

    def __repr__(self) -> str:
        return f"np.array({self.rows!r}, dtype=np.{self.dtype})"

    @cached_property
    def array(self) -> np.ndarray[Any, Any]:
        """The numbers; do not change them."""
        return np.array(self.rows, dtype=self.dtype)


def table_of(array: np.ndarray[Any, Any]) -> Table | None:
    """Convert an array to a value; None if it is large, of another type, or not finite."""
    if array.dtype.name not in DTYPES or not 0 < array.size <= MAX_ELEMENTS or not 1 <= array.ndim <= 2:
        return None
    return Table(_nested(array.tolist()), array.dtype.name) if np.isfinite(array).all() else None


def _nested(rows: list[Any]) -> tuple[Any, ...]:
    return tuple(_nested(row) if isinstance(row, list) else row for row in rows)


def is_table(*shape: int | None, dtypes: tuple[str, ...] = DTYPES) -> Check:
    """A table of this shape (None: any length) and one of these types."""

    def check(value: object) -> bool:
        if not isinstance(value, Table) or value.dtype not in dtypes or value.array.ndim != len(shape):
            return False
        if any(want not in (None, have) for want, have in zip(shape, value.array.shape, strict=True)):
            return False
        return all(math.isfinite(number) and abs(number) <= 1e9 for number in value.array.flat)

    return check


def is_kernel(value: object) -> bool:
    """None, or a kernel of at most 31 x 31 numbers."""
    return value is None or (isinstance(value, Table) and is_table(None, None)(value) and max(value.array.shape) <= 31)
