"""Canvases by hand, and oblique turns compared with Pillow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from sandbox.lanes.tensor.kinds import KINDS
from sandbox.operations.operation import State
from tests.sandbox.lanes.tensor.agreement import as_tensor, noise

SQUARE = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("Image.crop", ((1, 0, 2, 2),), [[2], [4]]),
        ("Image.crop", ((-1, 1, 1, 3),), [[0, 3], [0, 0]]),
        ("Image.crop", ((5, 5, 7, 6),), [[0, 0]]),
        ("Image.paste", ((3, 2), 9, (1, -1)), [[9, 3, 4], [9, 9, 9]]),
        ("Image.paste", ((1, 1), 9, (-1, -1)), [[4]]),
        ("ImageOps.expand", ((1, 0), 7), [[7, 1, 2, 7], [7, 3, 4, 7]]),
        ("cv2.copyMakeBorder", (1, 0, 0, 1, 0, 5), [[5, 5, 5], [1, 2, 5], [3, 4, 5]]),
        ("cv2.copyMakeBorder", (0, 0, 2, 0, 2, 5), [[2, 1, 1, 2], [4, 3, 3, 4]]),
        ("orient", ("transverse",), [[4, 2], [3, 1]]),
    ],
)
def test_pixels_lie_where_they_should(name: str, values: Any, expected: list[list[int]]) -> None:
    (kind,) = KINDS[name]
    assert kind.call(SQUARE, [values])[0, 0].tolist() == expected


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("angle", [0.01, 44.9, 137, 359.5])
def test_turns_are_pillows(angle: float, resample: int) -> None:
    image = noise(61, 40)
    (kind,) = KINDS["Image.rotate"]
    values = (angle, resample, True, (70, -3.5), (4, 9), "red")
    expected = as_tensor(image.rotate(*values), "cpu")
    found = kind.call(as_tensor(image, "cpu")[None], [values])[0]
    assert int((found.int() - expected.int()).abs().max()) <= kind.most(values) <= 1


def test_what_pillow_does_otherwise_is_refused() -> None:
    (kind,) = KINDS["Image.rotate"]
    usual = (30, 0, False, None, None, None)
    assert not kind.refuses(usual, State((40, 30)))
    for place, value in ((0, 90), (1, Image.Resampling.BICUBIC), (3, (99999, 0))):
        assert kind.refuses((*usual[:place], value, *usual[place + 1 :]), State((40, 30)))
