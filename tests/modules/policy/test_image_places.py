"""Places of images equal those that Hugging Face computes for a whole batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from modules.policy.image_places import image_places

_SIDES = st.integers(1, 11).map(lambda side: 2 * side)
_GRIDS = st.lists(st.tuples(st.just(1), _SIDES, _SIDES), min_size=1, max_size=5)


class Tower:
    spatial_merge_size = 2
    patch_size = 14


class WindowedTower(Tower):
    window_size = 112


@given(_GRIDS)
def test_places_of_a_batch(grids: list[tuple[int, int, int]]) -> None:
    places = image_places(WindowedTower(), grids, torch.device("cpu"))
    index, bounds = get_vision_window_index(torch.tensor(grids), 2, 112, 14)
    assert torch.equal(places["image_position_ids"], get_vision_position_ids(torch.tensor(grids), 2))
    assert torch.equal(places["image_window_index"], index)
    assert torch.equal(places["image_cu_window_seqlens"], bounds)
    assert places["image_cu_window_seqlens"].dtype == bounds.dtype


def test_tower_without_windows() -> None:
    assert image_places(Tower(), [(1, 4, 6)], torch.device("cpu")).keys() == {"image_position_ids"}
