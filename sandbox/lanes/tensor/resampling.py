"""Pillow's resampling in its own integer arithmetic: coefficients of 22 bits, one pass per axis, rounding after each.

After `src/libImaging/Resample.c` of Pillow 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Floats = np.ndarray[Any, np.dtype[np.float64]]
Box = tuple[float, float, float, float]

_PRECISION_BITS = 22
#: Taps from which on one exact matrix product is cheaper than a pass over the pixels per tap.
_MANY_TAPS = 64


def _box(x: Floats) -> Floats:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: Floats) -> Floats:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _hamming(x: Floats) -> Floats:
    x = np.abs(x)
    scaled = np.where(x == 0.0, 1.0, x * math.pi)
    window = np.float64(np.float32(0.54)) + np.float64(np.float32(0.46)) * np.cos(scaled)
    return np.where(x == 0.0, 1.0, np.where(x >= 1.0, 0.0, np.sin(scaled) / scaled * window))


def _bicubic(x: Floats) -> Floats:
    x, a = np.abs(x), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _sinc(x: Floats) -> Floats:
    scaled = np.where(x == 0.0, 1.0, x * math.pi)
    return np.where(x == 0.0, 1.0, np.sin(scaled) / scaled)


def _lanczos(x: Floats) -> Floats:
    return np.where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3), 0.0)


def _mks_2013(x: Floats) -> Floats:
    x = np.abs(x)
    near, middle, far = 17.0 / 16.0 - 7.0 / 4.0 * (x * x), (1.0 - x) * (7.0 / 4.0 - x), x - 5.0 / 2.0
    return np.where(x < 0.5, near, np.where(x < 1.5, middle, np.where(x < 2.5, -1.0 / 8.0 * (far * far), 0.0)))


def _mks_2021(x: Floats) -> Floats:
    x = np.abs(x)
    last = x - 9.0 / 2.0
    pieces = (
        (x < 0.5, 577.0 / 576.0 - 239.0 / 144.0 * (x * x)),
        (x < 1.5, 35.0 / 36.0 * (x - 1.0) * (x - 239.0 / 140.0)),
        (x < 2.5, 1.0 / 6.0 * (x - 2.0) * (65.0 / 24.0 - x)),
        (x < 3.5, 1.0 / 36.0 * (x - 3.0) * (x - 15.0 / 4.0)),
        (x < 4.5, -1.0 / 288.0 * (last * last)),
    )
    return np.select([is_here for is_here, _ in pieces], [value for _, value in pieces], 0.0)


#: Filter and support of each of Pillow's resampling constants.
_FILTERS: dict[int, tuple[Callable[[Floats], Floats], float]] = {
    1: (_lanczos, 3.0),
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
    4: (_box, 0.5),
    5: (_hamming, 1.0),
    6: (_mks_2013, 2.5),
    7: (_mks_2021, 4.5),
}
FILTERS = frozenset(_FILTERS)


@lru_cache(maxsize=512)
def coefficients(
    in_size: int, first: float, last: float, out_size: int, resample: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int32]]]:
    """What each output place sums.

    Args:
        in_size: Pixels of the axis.
        first: Where the box begins, in pixels.
        last: Where it ends.
        out_size: Pixels of the result.
        resample: One of `FILTERS`.

    Returns:
        First input place [out], and coefficients [out, taps] in units of 2**-22; those that are not used are 0.
    """
    function, support = _FILTERS[resample]
    scale = float(np.float32(last) - np.float32(first)) / out_size
    filter_scale = max(scale, 1.0)
    support *= filter_scale
    n_taps = math.ceil(support) * 2 + 1
    centers = float(np.float32(first)) + (np.arange(out_size) + 0.5) * scale
    starts = np.maximum(np.trunc(centers - support + 0.5), 0).astype(np.int64)
    ends = np.minimum(np.trunc(centers + support + 0.5), in_size).astype(np.int64)
    taps = np.arange(n_taps)
    weights = function((taps + starts[:, None] - centers[:, None] + 0.5) * (1.0 / filter_scale))
    weights = np.where(taps < (ends - starts)[:, None], weights, 0.0)
    total = np.zeros(out_size)
    for tap in range(n_taps):  # in this order, as rounding depends on it
        total += weights[:, tap]
    weights = np.where(total[:, None] != 0.0, weights / np.where(total == 0.0, 1.0, total)[:, None], weights)
    scaled = weights * (1 << _PRECISION_BITS)
    return starts, np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)


@lru_cache(maxsize=512)
def _on_device(
    in_size: int, first: float, last: float, out_size: int, resample: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    starts, weights = coefficients(in_size, first, last, out_size, resample)
    n_used = max(1, int((weights != 0).any(0).nonzero()[0].max(initial=0)) + 1)
    return torch.from_numpy(starts).to(device), torch.from_numpy(weights[:, :n_used].copy()).to(device)


def _pass(images_NCHW: Tensor, axis: int, first: float, last: float, out_size: int, resample: int) -> Tensor:
    in_size = images_NCHW.shape[axis]
    starts, weights = _on_device(in_size, first, last, out_size, resample, images_NCHW.device)
    # Whole rows are picked faster than columns.
    lines = images_NCHW if axis == 2 else images_NCHW.transpose(2, 3).contiguous()
    if weights.shape[1] > _MANY_TAPS:
        total = _product(lines, starts, weights)
    else:
        total = torch.full((), 1 << (_PRECISION_BITS - 1), dtype=torch.int32, device=images_NCHW.device)
        for tap in range(weights.shape[1]):
            picked = lines.index_select(2, (starts + tap).clamp(max=in_size - 1)).to(torch.int32)
            total = picked.mul_(weights[:, tap, None]).add_(total)
    result = (total >> _PRECISION_BITS).clamp_(0, 255).to(torch.uint8)
    return result if axis == 2 else result.transpose(2, 3).contiguous()


def _product(images_NCHW: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """The sums along the columns as one matrix product of whole numbers below 2**53: exact in float64."""
    in_size = images_NCHW.shape[2]
    matrix = torch.zeros(len(starts), in_size + weights.shape[1], dtype=torch.float64, device=images_NCHW.device)
    places = starts[:, None] + torch.arange(weights.shape[1], device=starts.device)
    matrix = matrix.scatter_(1, places, weights.double())[:, :in_size]
    return (matrix @ images_NCHW.double() + (1 << (_PRECISION_BITS - 1))).to(torch.int64)


def resample_images(images_NCHW: Tensor, size: tuple[int, int], resample: int, box: Box | None = None) -> Tensor:
    """Resize as Pillow does, bit for bit.

    Args:
        images_NCHW: uint8.
        size: (width, height) of the result.
        resample: One of `FILTERS`.
        box: The part that is resized, (x1, y1, x2, y2) in pixels; None is the whole.

    Returns:
        uint8 [N, C, height, width].
    """
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    is_horizontal = size[0] != width or left != 0 or right != size[0]
    is_vertical = size[1] != height or top != 0 or bottom != size[1]
    # Pillow's own rule; the order matters, for values are rounded in between.
    is_vertical_first = height - size[1] > 0 and height - size[1] > (width - size[0]) * 2
    horizontal, vertical = (3, left, right, size[0], is_horizontal), (2, top, bottom, size[1], is_vertical)
    for axis, first, last, out_size, is_needed in (
        (vertical, horizontal) if is_vertical_first else (horizontal, vertical)
    ):
        if is_needed:
            images_NCHW = _pass(images_NCHW, axis, first, last, out_size, resample)
    return images_NCHW
