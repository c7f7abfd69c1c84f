"""A cache that grows in place holds what Hugging Face's own holds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from modules.policy.kv_cache import growing_cache

steps = st.lists(st.one_of(st.integers(1, 80), st.lists(st.integers(0, 2), min_size=3, max_size=3)), max_size=6)


@given(steps=steps)
def test_columns_are_those_of_the_dynamic_cache(steps: list[int | list[int]]) -> None:
    """Numbers append columns, lists keep rows: three of them, which may repeat."""
    ours, theirs = growing_cache(), DynamicCache()
    generator = torch.Generator().manual_seed(0)
    for step in [2, *steps]:
        if isinstance(step, list):
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor(step))
            continue
        for layer in (0, 1):
            keys, values = torch.randn((2, 3, 2, step, 4), generator=generator)
            for found, expected in zip(
                ours.update(keys, values, layer), theirs.update(keys.clone(), values.clone(), layer), strict=True
            ):
                assert torch.equal(found, expected)
    assert ours.get_seq_length() == theirs.get_seq_length()
