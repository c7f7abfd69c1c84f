"""Borders, strips and extremes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sandbox.lanes.tensor import filters
from sandbox.lanes.tensor.filters import bordered, correlated, in_strips
from sandbox.lanes.tensor.kinds import KINDS

LINE = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)


def test_margins_may_be_wider_than_the_image() -> None:
    assert bordered(LINE, (0, 0), (2, 1), "edge").flatten().tolist() == [10, 10, 10, 20, 30, 30]
    assert bordered(LINE, (0, 0), (5, 0), "reflect").flatten().tolist() == [20, 10, 20, 30, 20, 10, 20, 30]
    assert bordered(LINE, (1, 1), (0, 0), "edge").shape == (1, 1, 3, 3)


def test_sums_of_whole_weights_are_whole() -> None:
    sums = correlated(LINE.expand(1, 1, 2, 3), np.array([[1, -2], [3, 0.0]]))
    assert sums.flatten().tolist() == [10 - 40 + 30, 20 - 60 + 60]


@pytest.mark.parametrize("n_values", [1, 9 * 7, 9 * 7 * 5, 1 << 24])
def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch, n_values: int) -> None:
    images = torch.arange(2 * 17 * 7, dtype=torch.float32).view(2, 1, 17, 7) % 31
    monkeypatch.setattr(filters, "_WINDOW_VALUES", n_values)
    seen = []

    def call(strip: torch.Tensor) -> torch.Tensor:
        seen.append(strip.shape[2])
        return torch.nn.functional.max_pool2d(strip, 5, 1, 2)

    assert torch.equal(in_strips(images, 2, 9, call), torch.nn.functional.max_pool2d(images, 5, 1, 2))
    assert (len(seen) == 1) == (n_values == 1 << 24)


@pytest.mark.parametrize(("rank", "expected"), [(0, 1), (4, 5), (8, 9)])
def test_ranks_of_nine(rank: int, expected: int) -> None:
    images = torch.tensor([[4, 9, 2], [3, 5, 7], [8, 1, 6]], dtype=torch.uint8)[None, None]
    (kind,) = KINDS["ImageFilter.RankFilter"]
    assert int(kind.call(images, [(3, rank)])[0, 0, 1, 1]) == expected
