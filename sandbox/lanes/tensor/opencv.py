"""OpenCV's operations where its arithmetic on bytes is known and is the same on every processor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sandbox.lanes.tensor.colours import apply_tables, gray_of, histograms
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Values
from sandbox.operations.table import OPERATIONS

#: Red, green and blue in 15 bits, as `cv2.cvtColor` weighs them.
_GRAY = (9798, 19235, 3735)


def swap_channels(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`cv2.COLOR_RGB2BGR`."""
    return images_NCHW.flip(1)


def rgb_to_gray(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`cv2.COLOR_RGB2GRAY`."""
    return gray_of(images_NCHW, _GRAY, 15)


def bgr_to_gray(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`cv2.COLOR_BGR2GRAY`."""
    return gray_of(images_NCHW, (_GRAY[2], _GRAY[1], _GRAY[0]), 15)


def gray_to_rgb(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`cv2.COLOR_GRAY2RGB`."""
    return images_NCHW.repeat(1, 3, 1, 1)


def resize_nearest(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.resize` with `INTER_NEAREST`."""
    size, across, down, _ = values[0]
    width, height = size or (round(images_NCHW.shape[3] * across), round(images_NCHW.shape[2] * down))
    for axis, out_size, factor in ((2, height, down), (3, width, across)):
        in_size = images_NCHW.shape[axis]
        step = 1.0 / (out_size / in_size if size else factor)
        places = np.minimum(np.floor(np.arange(out_size) * step).astype(np.int64), in_size - 1)
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(places).to(images_NCHW.device))
    return images_NCHW


#: OpenCV's own kernels of few pixels, where no sigma is given; 256ths.
_SMALL_KERNELS = {
    1: (256,),
    3: (64, 128, 64),
    5: (16, 64, 96, 64, 16),
    7: (8, 28, 56, 72, 56, 28, 8),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}


@lru_cache(maxsize=256)
def gaussian_kernel(side: int, sigma: float) -> tuple[int, ...]:
    """OpenCV's Gaussian for bytes, in 256ths: what rounding takes from one weight is added to the next."""
    if sigma <= 0 and side in _SMALL_KERNELS:
        return _SMALL_KERNELS[side]
    sigma = sigma if sigma > 0 else ((side - 1) * 0.5 - 1) * 0.3 + 0.8
    places = np.arange(side) - (side - 1) * 0.5
    exact = np.exp(-0.5 / (sigma * sigma) * places * places)
    exact /= exact.sum()
    half: list[int] = []
    left_over = 0.0
    for weight in exact[: side // 2]:
        wanted = float(weight) * 256 + left_over
        half.append(int(np.rint(wanted)))
        left_over = wanted - half[-1]
    return (*half, 256 - 2 * sum(half), *reversed(half))


def gaussian_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.GaussianBlur` of bytes: two passes in fixed point, rounded once."""
    (side_x, side_y), sigma_x, sigma_y = values[0]
    sigma_y = sigma_y if sigma_y > 0 else sigma_x
    side_x, side_y = side_x or round(sigma_x * 6 + 1) | 1, side_y or round(sigma_y * 6 + 1) | 1
    height, width = images_NCHW.shape[2:]
    total = mirrored(images_NCHW, side_y // 2, side_x // 2).to(torch.int32)
    for axis, size, kernel in (
        (3, width, gaussian_kernel(side_x, sigma_x)),
        (2, height, gaussian_kernel(side_y, sigma_y)),
    ):
        source, total = total, torch.zeros((), dtype=torch.int32, device=images_NCHW.device)
        for start, weight in enumerate(kernel):
            if weight:
                total = (source.narrow(axis, start, size) * weight).add_(total)
    return ((total + (1 << 15)) >> 16).clamp_(0, 255).to(torch.uint8)


def bordered(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.copyMakeBorder`: of one value, or of the image's pixels in the order that OpenCV names."""
    top, bottom, left, right, kind, _ = values[0]
    image = images_NCHW
    for axis, before, after in ((2, top, bottom), (3, left, right)):
        size = images_NCHW.shape[axis]
        border = cv2.BORDER_REPLICATE if kind == cv2.BORDER_CONSTANT else kind
        places = [cv2.borderInterpolate(place, size, border) for place in range(-before, size + after)]
        image = image.index_select(axis, torch.tensor(places, device=image.device))
    if kind == cv2.BORDER_CONSTANT:
        pixel = np.zeros((1, 1, 3) if image.shape[1] == 3 else (1, 1), np.uint8)
        sample = OPERATIONS["cv2.copyMakeBorder"].call(Image.fromarray(pixel), (0, 1, 0, 0, *values[0][4:]))
        colour = torch.from_numpy(np.array(sample).reshape(2, -1)[1].copy()).to(image.device)
        height, width = images_NCHW.shape[2:]
        canvas = colour[None, :, None, None].expand(image.shape).contiguous()
        canvas[:, :, top : top + height, left : left + width] = images_NCHW
        return canvas
    return image


def _extreme(images_NCHW: Tensor, kernel: Table | None, times: int, *, is_least: bool) -> Tensor:
    """`cv2.erode` or `cv2.dilate`: what lies outside counts for nothing."""
    shape = np.ones((3, 3), bool) if kernel is None else kernel.array != 0
    (rows, columns), (height, width) = shape.shape, images_NCHW.shape[2:]
    if shape.size == 1:
        return images_NCHW
    pick, outside = (torch.minimum, 255) if is_least else (torch.maximum, 0)
    for _ in range(times):
        margins = (columns // 2, columns - 1 - columns // 2, rows // 2, rows - 1 - rows // 2)
        padded = torch.nn.functional.pad(images_NCHW, margins, value=outside)
        best: Tensor | None = None
        for row, column in zip(*np.nonzero(shape), strict=True):
            part = padded[:, :, row : row + height, column : column + width]
            best = part if best is None else pick(best, part)
        images_NCHW = torch.full_like(images_NCHW, outside) if best is None else best.contiguous()
    return images_NCHW


def erode(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.erode`."""
    return _extreme(images_NCHW, *values[0], is_least=True)


def dilate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.dilate`."""
    return _extreme(images_NCHW, *values[0], is_least=False)


def morphology(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.morphologyEx`: erode, dilate, open, close, gradient, top hat, black hat."""
    kind, *how = values[0]

    def least(images: Tensor) -> Tensor:
        return _extreme(images, *how, is_least=True)

    def most(images: Tensor) -> Tensor:
        return _extreme(images, *how, is_least=False)

    if kind in (cv2.MORPH_ERODE, cv2.MORPH_DILATE):
        return least(images_NCHW) if kind == cv2.MORPH_ERODE else most(images_NCHW)
    if kind == cv2.MORPH_GRADIENT:
        return _less(most(images_NCHW), least(images_NCHW))
    opened = most(least(images_NCHW)) if kind in (cv2.MORPH_OPEN, cv2.MORPH_TOPHAT) else least(most(images_NCHW))
    if kind == cv2.MORPH_TOPHAT:
        return _less(images_NCHW, opened)
    return _less(opened, images_NCHW) if kind == cv2.MORPH_BLACKHAT else opened


def _less(one: Tensor, other: Tensor) -> Tensor:
    return (one.to(torch.int16) - other).clamp_(0, 255).to(torch.uint8)


def is_exact_kernel(kernel: Table | None) -> bool:
    """Whether sums of bytes with these weights are whole numbers that float32 holds, in any order."""
    if kernel is None:
        return False
    weights = kernel.array.astype(float)
    is_whole = bool((weights == np.round(weights)).all())
    return is_whole and float(np.abs(weights).sum()) * 255 < 1 << 24 and weights.size < 50


def correlate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.filter2D` with weights that are whole numbers."""
    weights = values[0][1].array.astype(int)
    (rows, columns), (height, width) = weights.shape, images_NCHW.shape[2:]
    padded = mirrored(images_NCHW, (rows // 2, rows - 1 - rows // 2), (columns // 2, columns - 1 - columns // 2))
    padded = padded.to(torch.int32)
    total = torch.zeros(images_NCHW.shape, dtype=torch.int32, device=images_NCHW.device)
    for row, column in zip(*np.nonzero(weights), strict=True):
        part = padded[:, :, row : row + height, column : column + width]
        total.add_(part, alpha=int(weights[row, column]))
    return total.clamp_(0, 255).to(torch.uint8)


Margin = int | tuple[int, int]


def mirrored(images_NCHW: Tensor, down: Margin, right: Margin) -> Tensor:
    """With a mirrored margin of any width, the edge itself not repeated (OpenCV's default border)."""
    for axis, margin in ((2, down), (3, right)):
        places = np.pad(np.arange(images_NCHW.shape[axis]), margin, mode="reflect")
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(places).to(images_NCHW.device))
    return images_NCHW


def threshold(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.threshold`, by the library's table; Otsu's limit comes from the histogram."""
    counts = histograms(images_NCHW) if any(kind >= cv2.THRESH_OTSU for _, _, kind in values) else None
    tables = []
    for place, (limit, most, kind) in enumerate(values):
        if counts is not None and kind >= cv2.THRESH_OTSU:
            limit, kind = otsu_limit(counts[place, 0].tolist()), kind - cv2.THRESH_OTSU
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        tables.append(np.asarray(OPERATIONS["cv2.threshold"].call(ramp, (limit, most, kind)))[0])
    return apply_tables(images_NCHW, torch.from_numpy(np.stack(tables))[:, None])


def otsu_limit(counts: Sequence[int]) -> int:
    """The limit that parts a histogram into classes that differ most (Otsu 1979), in OpenCV's float64 steps."""
    scale = 1.0 / sum(counts)
    mean = sum(value * float(count) for value, count in enumerate(counts)) * scale
    low_mean = low_share = best = 0.0
    limit, epsilon = 0, float(np.finfo(np.float32).eps)
    for value, count in enumerate(counts):
        share = count * scale
        low_mean *= low_share
        low_share += share
        high_share = 1.0 - low_share
        if min(low_share, high_share) < epsilon or max(low_share, high_share) > 1.0 - epsilon:
            continue
        low_mean = (low_mean + value * share) / low_share
        high_mean = (mean - low_share * low_mean) / high_share
        between = low_share * high_share * (low_mean - high_mean) * (low_mean - high_mean)
        if between > best:
            best, limit = between, value
    return limit
