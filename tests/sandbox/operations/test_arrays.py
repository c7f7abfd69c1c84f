"""Small arrays as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.operations.arrays import DTYPES, MAX_ELEMENTS, Table, is_kernel, is_table, table_of


@given(st.sampled_from(DTYPES), st.lists(st.integers(1, 6), min_size=1, max_size=2), st.integers(0, 99))
def test_an_array_becomes_a_value_and_back(dtype: str, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    table = table_of(array)
    assert table is not None
    assert table.array.dtype == array.dtype
    np.testing.assert_array_equal(table.array, array)
    assert hash(table) == hash(table_of(array.copy()))
    assert repr(table) == f"np.array({table.rows!r}, dtype=np.{dtype})"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.zeros(MAX_ELEMENTS + 1),
        np.float64(3.0) * np.ones(()),
        np.ones((2, 2, 2)),
        np.array([np.nan]),
        np.array([np.inf]),
        np.array([1j]),
        np.array(["a"]),
        np.ones(3, np.float16),
        np.ones(3, np.bool_),
    ],
    ids=str,
)
def test_other_arrays_are_no_values(array: Any) -> None:
    assert table_of(array) is None


def test_as_many_elements_as_may_be() -> None:
    assert table_of(np.zeros(MAX_ELEMENTS)) is not None


def test_numbers_of_another_type_are_another_value() -> None:
    assert table_of(np.array([1, 2], np.uint8)) != table_of(np.array([1, 2], np.int32))


def test_shapes_and_types_of_a_table() -> None:
    matrix = table_of(np.eye(2, 3, dtype=np.float32))
    assert is_table(2, 3)(matrix)
    assert is_table(None, 3)(matrix)
    assert not is_table(3, 3)(matrix)
    assert not is_table(6)(matrix)
    assert not is_table(2, 3, dtypes=("float64",))(matrix)
    assert not is_table(2, 3)(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    assert is_table(1)(Table((1e9,), "float64"))
    assert not is_table(1)(Table((1.1e9,), "float64"))


def test_kernels() -> None:
    assert is_kernel(None)
    assert is_kernel(table_of(np.ones((31, 31))))
    assert not is_kernel(table_of(np.ones((1, 32))))
    assert not is_kernel(table_of(np.ones(3)))
