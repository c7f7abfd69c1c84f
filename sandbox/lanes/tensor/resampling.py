"""Pillow's resampling in its own integer arithmetic: coefficients of 22 bits, one pass per axis, rounding after each.

After `src/libImaging/Resample.c` of Pillow 13, whose coefficients Pillow itself gives.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]

_PRECISION_BITS = 22
#: Taps from which on one exact matrix product is cheaper than a pass over the pixels per tap.
_MANY_TAPS = 64
#: Reach of each of Pillow's filters, in pixels of the source if it is enlarged.
_SUPPORT: dict[int, float] = {1: 3.0, 2: 1.0, 3: 2.0, 4: 0.5, 5: 1.0, 6: 2.5, 7: 4.5}


@lru_cache(maxsize=512)
def _coefficients(
    in_size: int, first: float, last: float, out_size: int, resample: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """First source place [out] of each sum, and its coefficients [out, taps] in units of 2**-22.

    Pillow resizes rows of impulses, one for each place of a window: integers of 32 bits are rounded as its own
    coefficients are.
    """
    scale = float(np.float32(last) - np.float32(first)) / out_size
    support = _SUPPORT[resample] * max(scale, 1.0)
    n_taps = math.ceil(support) * 2 + 1
    centers = float(np.float32(first)) + (np.arange(out_size) + 0.5) * scale
    starts = np.maximum(np.trunc(centers - support + 0.5), 0).astype(np.int64)
    impulses = (np.arange(in_size) % n_taps == np.arange(n_taps)[:, None]).astype(np.int32) << _PRECISION_BITS
    rows = Image.fromarray(impulses).resize((out_size, n_taps), resample, (first, 0, last, n_taps))
    places = starts[:, None] + np.arange(n_taps)
    weights = np.where(places < in_size, np.asarray(rows)[places % n_taps, np.arange(out_size)[:, None]], 0)
    n_used = max(1, int((weights != 0).any(0).nonzero()[0].max(initial=0)) + 1)
    return torch.from_numpy(starts).to(device), torch.from_numpy(weights[:, :n_used].astype(np.int32)).to(device)


def _pass(images_NCHW: Tensor, axis: int, first: float, last: float, out_size: int, resample: int) -> Tensor:
    in_size = images_NCHW.shape[axis]
    starts, weights = _coefficients(in_size, first, last, out_size, resample, images_NCHW.device)
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


def is_vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Pillow's own rule, of sizes (width, height); the order matters, for values are rounded in between."""
    (width, height), (wide, high) = before, after
    return height - high > 0 and height - high > (width - wide) * 2


def resample_images(images_NCHW: Tensor, size: tuple[int, int], resample: int, box: Box | None = None) -> Tensor:
    """Resize as Pillow does, bit for bit.

    Args:
        images_NCHW: uint8.
        size: (width, height) of the result.
        resample: One of Pillow's filters but NEAREST.
        box: The part that is resized, (x1, y1, x2, y2) in pixels; None is the whole.

    Returns:
        uint8 [N, C, height, width].
    """
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    is_horizontal = size[0] != width or left != 0 or right != size[0]
    is_vertical = size[1] != height or top != 0 or bottom != size[1]
    horizontal, vertical = (3, left, right, size[0], is_horizontal), (2, top, bottom, size[1], is_vertical)
    for axis, first, last, out_size, is_needed in (
        (vertical, horizontal) if is_vertical_first((width, height), size) else (horizontal, vertical)
    ):
        if is_needed:
            images_NCHW = _pass(images_NCHW, axis, first, last, out_size, resample)
    return images_NCHW
