"""OpenCV's other filters, by Kornia's sums with OpenCV's weights, borders and rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from sandbox.lanes.tensor.filters import FILTER2D, MAX_WEIGHTS, Array, bordered, correlated, in_strips
from sandbox.lanes.tensor.kinds import Call, operation
from sandbox.lanes.tensor.values import to_bytes
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Values


def _around(side: int) -> tuple[int, int]:
    """Margins for a kernel whose anchor is its middle, or the place after the middle."""
    return side // 2, side - 1 - side // 2


def _reflecting(images_NCHW: Tensor, weights: Array) -> Tensor:
    """Correlate with a mirrored border; the result in bytes."""
    padded = bordered(images_NCHW, _around(weights.shape[0]), _around(weights.shape[1]), "reflect")
    return to_bytes(correlated(padded, weights))


def _sum_of_weights(kernel: Table | None) -> float:
    """Sum of a kernel's absolute weights; infinite without a kernel."""
    return math.inf if kernel is None else float(np.abs(kernel.array.astype(float)).sum())


def _is_fractional(values: Values) -> bool:
    """Whether sums of bytes may be fractions, or too large for float32 to resolve."""
    return bool((values[1].array % 1).any()) or _sum_of_weights(values[1]) >= MAX_WEIGHTS


@operation(
    "cv2.filter2D",
    by=FILTER2D,
    most=_is_fractional,
    growth=lambda values: _sum_of_weights(values[1]),
    refuses=lambda values, _: _sum_of_weights(values[1]) > MAX_WEIGHTS,
    reason="no kernel, or weights so large that float32 loses the pixel",
)
def _correlate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return _reflecting(images_NCHW, values[0][1].array)


def _derivative(*orders: tuple[int, int]) -> Call:
    """The sum of derivatives (of x, of y) with OpenCV's own whole-number weights, in bytes."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        side = values[0][-1]
        if side == 1:
            return _reflecting(images_NCHW, np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]))
        lines = [cv2.getDerivKernels(dx, dy, side, ktype=cv2.CV_64F) for dx, dy in orders]
        return _reflecting(images_NCHW, np.asarray(sum(down @ across.T for across, down in lines)))

    return call


operation("cv2.Laplacian", by=FILTER2D)(_derivative((2, 0), (0, 2)))
operation(
    "cv2.Sobel", by=FILTER2D, refuses=lambda values, _: values[1:3] == (0, 0), reason="no derivative is asked for"
)(lambda images_NCHW, values: _derivative(values[0][1:3])(images_NCHW, values))


@operation("cv2.blur", by=FILTER2D, most=1, growth=1)
def _blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    width, height = values[0][0]
    padded = bordered(images_NCHW, _around(height), _around(width), "reflect")
    return to_bytes(_box_sums(padded, (height, width)) / (width * height))


def _box_sums(padded_NCHW: Tensor, sides: tuple[int, int]) -> Tensor:
    """Sums over boxes of (height, width), whole numbers, at the positions where the boxes fit."""
    return correlated(correlated(padded_NCHW, np.ones((sides[0], 1))), np.ones((1, sides[1])))


@operation(
    "cv2.GaussianBlur",
    by=FILTER2D,
    growth=1,
    refuses=lambda values, _: any(0 < sigma < 0.01 for sigma in values[1:]),
    reason="a sigma between 0 and 0.01 divides by zero",
)
def _gaussian_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    (side_x, side_y), sigma_x, sigma_y = values[0]
    sigma_y = sigma_y if sigma_y > 0 else sigma_x
    side_x, side_y = side_x or round(sigma_x * 6 + 1) | 1, side_y or round(sigma_y * 6 + 1) | 1
    padded = bordered(images_NCHW, _around(side_y), _around(side_x), "reflect")
    across = correlated(padded, _fixed_gaussian(side_x, sigma_x)[None])
    sums = correlated(across, _fixed_gaussian(side_y, sigma_y)[:, None])
    return ((sums + (1 << 15)) / (1 << 16)).floor_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _fixed_gaussian(side: int, sigma: float) -> Array:
    """OpenCV's Gaussian for bytes, in 256ths: a blurred impulse of 255, its middle corrected for a sum of 256."""
    impulse = np.zeros((1, 2 * side + 1), np.uint8)
    impulse[0, side] = 255
    line = cv2.GaussianBlur(impulse, (side, 1), sigma)[0, side - side // 2 : side + side // 2 + 1].astype(float)
    line[side // 2] += 256 - line.sum()
    return line


@operation("cv2.adaptiveThreshold", by=FILTER2D, far=0.02)
def _adaptive_threshold(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """Compare each pixel with the mean or the Gaussian mean around it."""
    most, method, kind, side, shift = values[0]
    padded = bordered(images_NCHW, _around(side), _around(side), "edge")
    if method == cv2.ADAPTIVE_THRESH_MEAN_C:
        means = _box_sums(padded, (side, side)) / (side * side)
    else:
        line = cv2.getGaussianKernel(side, 0, cv2.CV_32F)
        means = correlated(correlated(padded, line), line.T)
    level = math.floor(shift) if kind == cv2.THRESH_BINARY_INV else math.ceil(shift)
    is_above: Tensor = images_NCHW.to(torch.int16) - to_bytes(means).to(torch.int16) > -level
    value = int(np.clip(np.rint(most), 0, 255))
    return torch.where(is_above == (kind == cv2.THRESH_BINARY), value, 0).to(torch.uint8)


@operation("cv2.bilateralFilter", most=1)
def _bilateral(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """Not Kornia's `bilateral_blur`: it uses a square, OpenCV a disk, and they differ by up to 42 of 255."""
    reach, sigma_color, sigma_space = max(values[0][0] // 2, 1), *values[0][1:]
    places = range(-reach, reach + 1)

    def call(strip: Tensor) -> Tensor:
        height, width = strip.shape[2:]
        padded, middle = bordered(strip, (reach, reach), (reach, reach), "reflect").float(), strip.float()
        total, weights = torch.zeros_like(middle), torch.zeros_like(middle[:, :1])
        for y, x in ((y, x) for y in places for x in places if y * y + x * x <= reach * reach):
            part = padded[:, :, reach + y : reach + y + height, reach + x : reach + x + width]
            distance = (part - middle).abs_().sum(1, keepdim=True)
            weight = (distance.square_() * (-0.5 / sigma_color**2) - 0.5 * (y * y + x * x) / sigma_space**2).exp_()
            total.addcmul_(part, weight)
            weights.add_(weight)
        return to_bytes(total / weights)

    # A strip's own border is mirrored and then cut off: each strip has as many extra rows as the filter reaches.
    return in_strips(images_NCHW, reach, 8, call)
