"""OpenCV's weights and borders, by hand and compared with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sandbox.lanes.tensor.kinds import KINDS
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State

POINT = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
POINT[0, 0, 2, 2] = 255


def test_a_kernel_is_not_mirrored_and_its_border_is() -> None:
    (kind,) = KINDS["cv2.filter2D"]
    found = kind.call(POINT, [(-1, Table(((0, 1, 0), (0, 0, 0), (0, 0, 0)), "int64"))])[0, 0]
    assert found.nonzero().tolist() == [[3, 2]]
    edge = torch.tensor([[[[1, 5, 9]]]], dtype=torch.uint8)
    assert kind.call(edge, [(-1, Table(((1, 0, 0),), "int64"))]).flatten().tolist() == [5, 1, 5]


@pytest.mark.parametrize(("weights", "is_exact"), [(((1, 2), (3, 4)), True), (((0.5, 0.5),), False)])
def test_whole_weights_are_exact(weights: tuple[tuple[float, ...], ...], is_exact: bool) -> None:
    (kind,) = KINDS["cv2.filter2D"]
    values = (-1, Table(weights, "float64"))
    assert kind.is_exact(values) == is_exact
    assert kind.growth(values) == sum(map(sum, weights))
    assert kind.refuses((-1, Table(((5000.0,),), "float64")), State((5, 5)))


@pytest.mark.parametrize(("sides", "sigma"), [((3, 3), 0), ((7, 5), 1.3), ((0, 0), 4.4), ((1, 31), 9)])
def test_a_gaussian_has_opencvs_weights_of_eight_bits(sides: tuple[int, int], sigma: float) -> None:
    (kind,) = KINDS["cv2.GaussianBlur"]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    found = kind.call(torch.from_numpy(pixels)[None, None], [(sides, sigma, 0)])[0, 0].numpy()
    assert np.array_equal(found, cv2.GaussianBlur(pixels, sides, sigma))


def test_a_bilateral_filter_keeps_an_edge_that_a_blur_does_not() -> None:
    step = torch.tensor([0, 0, 0, 0, 255, 255, 255, 255], dtype=torch.uint8).expand(1, 1, 8, 8).contiguous()
    (bilateral,), (blur,) = KINDS["cv2.bilateralFilter"], KINDS["cv2.blur"]
    assert torch.equal(bilateral.call(step, [(5, 5.0, 9.0)]), step)
    assert blur.call(step, [((3, 1),)])[0, 0, 0].tolist() == [0, 0, 0, 85, 170, 255, 255, 255]
