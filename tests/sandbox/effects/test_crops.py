"""Places of a part in an image, compared with a search of every place; the work of the search is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import ORIENTATIONS
from sandbox.effects import crops as cut_outs
from sandbox.effects.crops import CropPlace, find_places
from sandbox.effects.pixels import Numbers, SearchBudget, oriented


def every_place(image: Numbers, part: Numbers) -> list[CropPlace]:
    """The places that `find_places` must find, found by trying all of them."""
    if max(len(set(row.tolist())) for row in part) < min(4, part.shape[1]):
        return []
    height, width = part.shape
    found: list[CropPlace] = []
    for name in ORIENTATIONS:
        turned = oriented(image, name)
        if turned.shape == part.shape:
            continue
        for y in range(turned.shape[0] - height + 1):
            for x in range(turned.shape[1] - width + 1):
                if (turned[y : y + height, x : x + width] == part).all():
                    found.append(CropPlace(name, x, y))
        if found and name == "identity":
            break
    return found


@given(st.data())
def test_finds_what_a_search_of_every_place_finds(data: st.DataObject) -> None:
    n_colors = data.draw(st.sampled_from([4, 6, 40]))
    height, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    pick = st.lists(st.integers(0, n_colors - 1), min_size=height * width, max_size=height * width)
    image = np.array(data.draw(pick), np.uint32).reshape(height, width)
    turned = oriented(image, data.draw(st.sampled_from(ORIENTATIONS)))
    y, x = data.draw(st.integers(0, turned.shape[0] - 1)), data.draw(st.integers(0, turned.shape[1] - 1))
    bottom, right = data.draw(st.integers(y + 1, turned.shape[0])), data.draw(st.integers(x + 1, turned.shape[1]))
    part = turned[y:bottom, x:right]
    high = np.uint32(data.draw(st.integers(0, 255)) << 24)  # the top byte has no meaning
    found = find_places(image | high, part, SearchBudget(1 << 25))
    assert found is not None
    assert len(found) == len(set(found))
    assert set(found) == set(every_place(image, part))


def test_a_part_of_something_else_lies_nowhere() -> None:
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 2**24, (2, 200, 300), dtype=np.uint32)
    assert find_places(image, other[20:60, 30:90], SearchBudget(1 << 25)) == []


@pytest.mark.parametrize("n_colors", [2, 5, 2**24])
def test_work_is_bounded_on_a_large_image(n_colors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, n_colors, (1500, 2000), dtype=np.uint32)
    looked: list[int] = []
    whole = cut_outs._fitting

    def counted(
        turned: Numbers, part: Numbers, ys: Any, xs: Any, row: int, budget: SearchBudget
    ) -> list[tuple[int, int]] | None:
        looked.append(len(ys))
        return whole(turned, part, ys, xs, row, budget)

    monkeypatch.setattr(cut_outs, "_fitting", counted)
    found = find_places(image, oriented(image, "transverse")[100:900, 50:700], SearchBudget(1 << 25))
    if n_colors == 2**24:
        assert found == [CropPlace("transverse", 50, 100)]
    assert sum(looked) <= 8 * cut_outs._MAX_PLACES
