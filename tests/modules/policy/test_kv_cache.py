"""A cache that grows in place holds the same as Hugging Face's, and gives rows to other caches without holes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from modules.policy.kv_cache import CachedRows, gathered, growing_cache

steps = st.lists(st.one_of(st.integers(1, 80), st.lists(st.integers(0, 2), min_size=3, max_size=3)), max_size=6)


@given(steps=steps)
def test_columns_are_those_of_the_dynamic_cache(steps: list[int | list[int]]) -> None:
    """Numbers append columns; lists select three rows, which may repeat."""
    ours, theirs = growing_cache(), DynamicCache()
    generator = torch.Generator().manual_seed(0)
    for step in [2, *steps]:
        if isinstance(step, list):
            theirs.batch_select_indices(torch.tensor(step))
            is_valid_BL = torch.ones(3, ours.get_seq_length(), dtype=torch.bool)
            ours = gathered([CachedRows(ours, is_valid_BL, [0, 1, 2])], [step], growing_cache)[0].cache
            continue
        for layer in (0, 1):
            keys, values = torch.randn((2, 3, 2, step, 4), generator=generator)
            for found, expected in zip(
                ours.update(keys, values, layer), theirs.update(keys.clone(), values.clone(), layer), strict=True
            ):
                assert torch.equal(found, expected)
    assert ours.get_seq_length() == theirs.get_seq_length()


def block(rows: list[int], is_valid_BL: list[list[int]]) -> CachedRows:
    """One layer with one head of one feature: a key is 100 * row + column, and a value is the negative of its key."""
    cache = growing_cache()
    keys = torch.tensor([[100.0 * row + column for column in range(len(is_valid_BL[0]))] for row in rows])
    cache.update(keys[:, None, :, None], -keys[:, None, :, None], 0)
    return CachedRows(cache, torch.tensor(is_valid_BL, dtype=torch.bool), rows)


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Fill memory that is allocated but not written with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nan_in_new_memory")
def test_rows_of_several_caches_come_without_holes() -> None:
    blocks = [block([4, 2], [[1, 0, 1, 0], [0, 0, 1, 0]]), block([3], [[1, 1, 0, 1, 1, 1]])]
    found, other = gathered(blocks, [[2, 3, 2, 4], [3]], growing_cache)
    assert other.cache.layers[0].keys[0, 0, :, 0].tolist() == [300, 301, 303, 304, 305]
    assert blocks[0].cache.layers == blocks[1].cache.layers == [None], "freed"
    assert found.rows == [2, 3, 2, 4]
    assert found.is_valid_BL.sum(1).tolist() == [1, 5, 1, 2]
    layer = found.cache.layers[0]
    for row, expected in enumerate(([202], [300, 301, 303, 304, 305], [202], [400, 402])):
        is_valid_L = found.is_valid_BL[row]
        assert layer.keys[row, 0, is_valid_L, 0].tolist() == expected
        assert layer.values[row, 0, is_valid_L, 0].tolist() == [-key for key in expected]
    assert layer.keys.shape[-2] == 5
    assert layer.keys.isfinite().all(), "attention multiplies what a row lacks by 0"
    assert layer.values.isfinite().all()
    more = torch.full((4, 1, 1, 1), 7.0)
    assert found.cache.update(more, more, 0)[0][..., -1, 0].tolist() == [[7.0]] * 4
