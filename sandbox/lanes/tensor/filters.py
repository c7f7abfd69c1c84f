"""Pillow's filters in its own arithmetic: small kernels, boxes, rank filters, unsharp mask.

After `Filter.c`, `BoxBlur.c`, `RankFilter.c` and `UnsharpMask.c` of Pillow 13's `src/libImaging`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import ImageFilter
from torch import Tensor

from sandbox.lanes.tensor.moving import margin
from sandbox.operations.operation import Values

#: Reach of a box up to which it is summed up pixel by pixel.
_FEW_PIXELS = 4

#: The kernels without arguments: (side, divisor, offset, weights), from Pillow's own definitions.
KERNELS: dict[str, Any] = {
    name: getattr(ImageFilter, name).filterargs
    for name in (
        "BLUR",
        "SMOOTH",
        "SMOOTH_MORE",
        "CONTOUR",
        "FIND_EDGES",
        "DETAIL",
        "EDGE_ENHANCE",
        "EDGE_ENHANCE_MORE",
        "SHARPEN",
        "EMBOSS",
    )
}


def convolve(images_NCHW: Tensor, kernel: Any) -> Tensor:
    """`Image.filter` with a kernel: float32 sums in Pillow's order, the lowest row first; the border stays."""
    (side, _), divisor, offset, numbers = kernel
    height, width = images_NCHW.shape[2:]
    if height < side or width < side:
        return images_NCHW.clone()
    weights = (np.array(numbers, dtype=np.float32) / np.float32(divisor)).reshape(side, side)
    values, reach = images_NCHW.float(), side // 2
    inner_height, inner_width = height - 2 * reach, width - 2 * reach
    total = torch.full((), float(offset) + 0.5, dtype=torch.float32, device=images_NCHW.device)
    for row in range(side):
        down = side - 1 - row
        line: Tensor | None = None
        for column in range(side):
            part = values[:, :, down : down + inner_height, column : column + inner_width] * float(weights[row, column])
            line = part if line is None else line.add_(part)
        if line is not None:
            total = line.add_(total)
    result = images_NCHW.clone()
    result[:, :, reach : height - reach, reach : width - reach] = total.clamp_(0, 255).to(torch.uint8)
    return result


def kernel_filter(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """One of `KERNELS` as an operation."""
    return lambda images_NCHW, _: convolve(images_NCHW, KERNELS[name])


def _box_line(images_NCHW: Tensor, radius: np.float32, axis: int) -> Tensor:
    """One pass along an axis: a box whose two outermost pixels count by the fraction of the radius.

    Sums are below 2**32, and int32 keeps them modulo 2**32: their highest byte is the result.
    """
    reach, size = int(radius), images_NCHW.shape[axis]
    inner = int(np.float32(1 << 24) / (radius * np.float32(2) + np.float32(1)))
    outer = ((1 << 24) - (reach * 2 + 1) * inner) // 2
    places = torch.arange(-reach - 1, size + reach + 1, device=images_NCHW.device).clamp_(0, size - 1)
    padded = images_NCHW.index_select(axis, places).to(torch.int32)
    if reach <= _FEW_PIXELS:
        middle = padded.narrow(axis, 1, size).clone()
        for start in range(2, 2 * reach + 2):
            middle.add_(padded.narrow(axis, start, size))
    else:
        sums = padded.cumsum(axis, dtype=torch.int32)
        middle = sums.narrow(axis, 2 * reach + 1, size) - sums.narrow(axis, 0, size)
    ends = padded.narrow(axis, 0, size) + padded.narrow(axis, 2 * reach + 2, size)
    total = middle.mul_(inner).add_(ends.mul_(outer)).add_(1 << 23)
    return ((total >> 24) & 255).to(torch.uint8)


def boxes(images_NCHW: Tensor, radius: np.float32, passes: int) -> Tensor:
    """`passes` boxes along the rows, then as many along the columns."""
    if radius == 0:
        return images_NCHW.clone()
    for axis in (3, 2):
        for _ in range(passes):
            images_NCHW = _box_line(images_NCHW, radius, axis)
    return images_NCHW


def box_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.BoxBlur`."""
    return boxes(images_NCHW, np.float32(values[0][0]), 1)


def _box_radius(sigma: float) -> np.float32:
    """Radius of three boxes like a Gaussian, in the float32 and float64 steps of `_gaussian_blur_radius`."""
    one, three, six = np.float32(1), np.float32(3), np.float32(6)
    variance = np.float32(sigma) * np.float32(sigma) / three
    length = np.float32(math.sqrt(12.0 * float(variance) + 1.0))
    whole = np.float32(math.floor((float(length) - 1.0) / 2.0))
    part = (np.float32(2) * whole + one) * (whole * (whole + one) - three * variance)
    part /= six * (variance - (whole + one) * (whole + one))
    return np.float32(whole + part)


def gaussian(images_NCHW: Tensor, sigma: float) -> Tensor:
    """Pillow's Gaussian: three boxes."""
    return images_NCHW.clone() if sigma == 0 else boxes(images_NCHW, _box_radius(sigma), 3)


def gaussian_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.GaussianBlur`."""
    return gaussian(images_NCHW, values[0][0])


def unsharp_mask(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.UnsharpMask`."""
    radius, percent, threshold = values[0]
    image = images_NCHW.int()
    difference = image - boxes(images_NCHW, _box_radius(radius), 3)
    sharper = image + torch.div(difference * percent, 100, rounding_mode="trunc")
    return torch.where(difference.abs() > threshold, sharper, image).clamp_(0, 255).to(torch.uint8)


def _windows(images_NCHW: Tensor, side: int) -> list[Tensor]:
    """The `side` x `side` neighbours of every pixel, as views."""
    padded = margin(images_NCHW, side // 2)
    height, width = images_NCHW.shape[2:]
    return [padded[:, :, y : y + height, x : x + width] for y in range(side) for x in range(side)]


def _extreme(images_NCHW: Tensor, side: int, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The least or greatest neighbour: along the rows, then along the columns."""
    padded = margin(images_NCHW, side // 2)
    for axis in (2, 3):
        size = images_NCHW.shape[axis]
        best = padded.narrow(axis, 0, size)
        for start in range(1, side):
            best = pick(best, padded.narrow(axis, start, size))
        padded = best
    return padded.contiguous()


def min_filter(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.MinFilter`."""
    return _extreme(images_NCHW, values[0][0], torch.minimum)


def max_filter(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.MaxFilter`."""
    return _extreme(images_NCHW, values[0][0], torch.maximum)


def _ranked(images_NCHW: Tensor, side: int, rank: int) -> Tensor:
    """The neighbour that `rank` others are not greater than, found bit by bit, from the highest.

    It is the greatest number that all but `rank` of the neighbours reach.
    """
    windows = _windows(images_NCHW, side)
    needed = side * side - rank
    found = torch.zeros_like(images_NCHW)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        candidate = found | bit
        reached = torch.zeros_like(images_NCHW)
        for window in windows:
            reached += window >= candidate
        found = torch.where(reached >= needed, candidate, found)
    return found


def median_filter(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.MedianFilter`, `cv2.medianBlur`."""
    side = values[0][0]
    return _ranked(images_NCHW, side, side * side // 2)


def rank_filter(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.RankFilter`."""
    return _ranked(images_NCHW, *values[0])


def custom_kernel(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.Kernel`."""
    size, numbers, scale, offset = values[0]
    return convolve(images_NCHW, (size, sum(numbers) if scale is None else scale, offset, numbers))
