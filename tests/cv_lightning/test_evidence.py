"""The IoU of viewed boxes with the box of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.evidence import iou


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),
        ((0, 0, 2, 2), (0, 0, 1, 2), 0.5),
        ((0, 0, 0, 0), (0, 0, 2, 2), 0),
        ((2, 2, 0, 0), (0, 0, 2, 2), 0),
    ],
)
def test_iou_by_hand(first: Any, second: Any, expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)
    assert iou(second, first) == pytest.approx(expected)
