"""Filters by Kornia, with Pillow's and OpenCV's kernels, borders and rounding.

Kornia filters floats. A sum of whole numbers is a whole number whatever the order, so it is rounded back to one: that
makes kernels of whole weights, boxes and extremes exact. Other kernels may differ by one where a sum is halfway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from kornia import filters, morphology
from PIL import ImageFilter
from torch import Tensor

from sandbox.lanes.tensor.values import blend
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Values

Margins = tuple[int, int]
#: Float32 values of all windows that are held at once: 64 MB.
_WINDOW_VALUES = 1 << 24

#: The kernels without arguments: (side, divisor, offset, weights), from Pillow's own definitions.
KERNELS: dict[str, Any] = {
    name: getattr(ImageFilter, name).filterargs
    for name in (
        *("BLUR", "SMOOTH", "SMOOTH_MORE", "CONTOUR", "FIND_EDGES"),
        *("DETAIL", "EDGE_ENHANCE", "EDGE_ENHANCE_MORE", "SHARPEN", "EMBOSS"),
    )
}
#: Those whose quotients are never halfway, or only where float32 holds them: exact in any order of the sum.
EXACT_KERNELS = tuple(name for name in KERNELS if name not in ("SMOOTH_MORE", "DETAIL"))


def to_bytes(values_NCHW: Tensor) -> Tensor:
    """Rounded half to even and clamped, as OpenCV saturates."""
    return values_NCHW.round().clamp_(0, 255).to(torch.uint8)


def correlated(images_NCHW: Tensor, weights: np.ndarray[Any, Any]) -> Tensor:
    """Sums where the kernel fits the image, float32 [N, C, H - kH + 1, W - kW + 1]."""
    kernel = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)).to(images_NCHW.device)
    sums: Tensor = filters.filter2d(images_NCHW.float(), kernel[None], padding="valid")
    return sums.round_() if bool((weights == np.round(weights)).all()) else sums


def convolve(images_NCHW: Tensor, kernel: Any) -> Tensor:
    """`Image.filter` with a kernel, the lowest row first; the border stays."""
    (side, _), divisor, offset, numbers = kernel
    height, width = images_NCHW.shape[2:]
    result = images_NCHW.clone()
    if height < side or width < side:
        return result
    sums = correlated(images_NCHW, np.array(numbers, dtype=np.float64).reshape(side, side)[::-1])
    reach = side // 2
    inner = (sums / divisor + (offset + 0.5)).floor_().clamp_(0, 255).to(torch.uint8)
    result[:, :, reach : height - reach, reach : width - reach] = inner
    return result


def kernel_filter(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """One of `KERNELS` as an operation."""
    return lambda images_NCHW, _: convolve(images_NCHW, KERNELS[name])


def custom_kernel(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.Kernel`."""
    size, numbers, scale, offset = values[0]
    return convolve(images_NCHW, (size, sum(numbers) if scale is None else scale, offset, numbers))


def sharpness(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageEnhance.Sharpness`."""
    return blend(convolve(images_NCHW, KERNELS["SMOOTH"]), images_NCHW, values)


def bordered(images_NCHW: Tensor, down: Margins, right: Margins, mode: str) -> Tensor:
    """With margins of any width: "edge" repeats the edge, "reflect" mirrors without it (OpenCV's default)."""
    for axis, margin in ((2, down), (3, right)):
        places = np.pad(np.arange(images_NCHW.shape[axis]), margin, mode=mode)  # type: ignore[call-overload]
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(places).to(images_NCHW.device))
    return images_NCHW


def _around(side: int) -> Margins:
    """Margins for a kernel whose anchor is its middle, or the place after it."""
    return side // 2, side - 1 - side // 2


def _box_line(images_NCHW: Tensor, radius: float, axis: int) -> Tensor:
    """One pass of Pillow's box along an axis; its two outermost pixels count by the fraction of the radius."""
    reach = int(radius)
    inner = int((1 << 24) / (radius * 2 + 1))
    weights = np.full(2 * reach + 3, inner / (1 << 24))
    weights[[0, -1]] = ((1 << 24) - (2 * reach + 1) * inner) // 2 / (1 << 24)
    margin: Margins = (reach + 1, reach + 1)
    padded = bordered(images_NCHW, margin if axis == 2 else (0, 0), margin if axis == 3 else (0, 0), "edge")
    sums = correlated(padded, weights[:, None] if axis == 2 else weights[None])
    return sums.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _boxes(images_NCHW: Tensor, radius: float, passes: int) -> Tensor:
    """`passes` boxes along the rows, then as many along the columns."""
    for axis in (3, 2) if radius else ():
        for _ in range(passes):
            images_NCHW = _box_line(images_NCHW, radius, axis)
    return images_NCHW.clone()


def box_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.BoxBlur`."""
    return _boxes(images_NCHW, values[0][0], 1)


def _box_radius(sigma: float) -> float:
    """Radius of three boxes that are like a Gaussian, after `_gaussian_blur_radius` of Pillow's `BoxBlur.c`."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) ** 2))


def pillow_gaussian(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.GaussianBlur`: three boxes."""
    return _boxes(images_NCHW, _box_radius(values[0][0]), 3)


def unsharp_mask(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.UnsharpMask`."""
    radius, percent, threshold = values[0]
    image = images_NCHW.int()
    difference = image - _boxes(images_NCHW, _box_radius(radius), 3)
    sharper = image + torch.div(difference * percent, 100, rounding_mode="trunc")
    return torch.where(difference.abs() > threshold, sharper, image).clamp_(0, 255).to(torch.uint8)


def in_strips(images_NCHW: Tensor, reach: int, n_taps: int, call: Callable[[Tensor], Tensor]) -> Tensor:
    """A local filter by strips of rows, so that what it holds for `n_taps` neighbours of each pixel stays small."""
    height = images_NCHW.shape[2]
    step = max(1, _WINDOW_VALUES // max(1, images_NCHW[:, :, 0].numel() * n_taps))
    if step >= height:
        return call(images_NCHW)
    strips = []
    for start in range(0, height, step):
        first, last = max(0, start - reach), min(height, start + step + reach)
        strips.append(call(images_NCHW[:, :, first:last])[:, :, start - first : start - first + step])
        strips[-1] = strips[-1][:, :, : min(step, height - start)]
    return torch.cat(strips, 2)


def median_filter(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageFilter.MedianFilter`, `cv2.medianBlur`."""
    side = values[0][0]

    def median(strip: Tensor) -> Tensor:
        middle: Tensor = filters.median_blur(strip.float(), side, "replicate")
        return middle.to(torch.uint8)

    return images_NCHW.clone() if side == 1 else in_strips(images_NCHW, side // 2, 2 * side * side, median)


def _extreme(images_NCHW: Tensor, shape: np.ndarray[Any, Any], times: int, *, is_least: bool) -> Tensor:
    """The least or greatest value under the kernel; what lies outside the image counts for nothing."""
    if shape.size == 1:
        return images_NCHW
    kernel = torch.from_numpy(np.ascontiguousarray(shape)).float().to(images_NCHW.device)
    image = images_NCHW.float()
    for _ in range(times):
        if is_least:
            image = morphology.erosion(image, kernel)
        else:  # Kornia mirrors the kernel, OpenCV does not
            origin = [shape.shape[0] - 1 - shape.shape[0] // 2, shape.shape[1] - 1 - shape.shape[1] // 2]
            image = morphology.dilation(image, kernel.flip((0, 1)), origin=origin)
        image = image.clamp_(0, 255)  # a kernel of which nothing meets the image gives an infinity
    return image.to(torch.uint8)


def extreme_filter(*, is_least: bool) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """`ImageFilter.MinFilter` or `MaxFilter`: along the rows, then along the columns."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        line = np.ones((1, values[0][0]))
        return _extreme(_extreme(images_NCHW, line, 1, is_least=is_least), line.T, 1, is_least=is_least)

    return call


def _shape(kernel: Table | None) -> np.ndarray[Any, Any]:
    return np.ones((3, 3)) if kernel is None else kernel.array != 0


def erode(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.erode`."""
    kernel, times = values[0]
    return _extreme(images_NCHW, _shape(kernel), times, is_least=True)


def dilate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.dilate`."""
    kernel, times = values[0]
    return _extreme(images_NCHW, _shape(kernel), times, is_least=False)


def morphology_ex(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.morphologyEx`: erode, dilate, open, close, gradient, top hat, black hat."""
    kind, kernel, times = values[0]
    how = [(kernel, times)]
    if kind in (cv2.MORPH_ERODE, cv2.MORPH_DILATE):
        return (erode if kind == cv2.MORPH_ERODE else dilate)(images_NCHW, how)
    if kind == cv2.MORPH_GRADIENT:
        return _less(dilate(images_NCHW, how), erode(images_NCHW, how))
    is_opened = kind in (cv2.MORPH_OPEN, cv2.MORPH_TOPHAT)
    done = dilate(erode(images_NCHW, how), how) if is_opened else erode(dilate(images_NCHW, how), how)
    if kind == cv2.MORPH_TOPHAT:
        return _less(images_NCHW, done)
    return _less(done, images_NCHW) if kind == cv2.MORPH_BLACKHAT else done


def _less(one: Tensor, other: Tensor) -> Tensor:
    return (one.to(torch.int16) - other).clamp_(0, 255).to(torch.uint8)


def correlate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.filter2D`."""
    return _reflecting(images_NCHW, values[0][1].array)


def _reflecting(images_NCHW: Tensor, weights: np.ndarray[Any, Any]) -> Tensor:
    """Correlated, the border mirrored, in bytes."""
    padded = bordered(images_NCHW, _around(weights.shape[0]), _around(weights.shape[1]), "reflect")
    return to_bytes(correlated(padded, weights))


def _derivative_kernel(name: str, values: Values) -> np.ndarray[Any, np.dtype[np.float64]]:
    """OpenCV's own weights of `cv2.Sobel` or `cv2.Laplacian`, whole numbers."""
    orders = [values[1:3]] if name == "cv2.Sobel" else [(2, 0), (0, 2)]
    side = values[-1]
    if side == 1:
        return np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    lines = [cv2.getDerivKernels(dx, dy, side, ktype=cv2.CV_64F) for dx, dy in orders]
    return np.asarray(sum(down @ across.T for across, down in lines))


def derivative(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """`cv2.Sobel` or `cv2.Laplacian` in bytes."""
    return lambda images_NCHW, values: _reflecting(images_NCHW, _derivative_kernel(name, values[0]))


def sum_of_weights(kernel: Table | None) -> float:
    """Sum of a kernel's absolute weights; infinite without a kernel."""
    return math.inf if kernel is None else float(np.abs(kernel.array.astype(float)).sum())


def is_whole(kernel: Table) -> bool:
    """Whether sums of bytes with these weights are whole numbers that float32 tells apart, rounded or not."""
    return bool((kernel.array == np.round(kernel.array)).all()) and sum_of_weights(kernel) < 1 << 12


def blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.blur`."""
    width, height = values[0][0]
    padded = bordered(images_NCHW, _around(height), _around(width), "reflect")
    return to_bytes(box_sums(padded, (height, width)) / (width * height))


def box_sums(padded_NCHW: Tensor, sides: tuple[int, int]) -> Tensor:
    """Sums over boxes of (height, width), whole numbers, where they fit."""
    return correlated(correlated(padded_NCHW, np.ones((sides[0], 1))), np.ones((1, sides[1])))


def gaussian_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.GaussianBlur`, with OpenCV's weights of 8 bits."""
    (side_x, side_y), sigma_x, sigma_y = values[0]
    sigma_y = sigma_y if sigma_y > 0 else sigma_x
    side_x, side_y = side_x or round(sigma_x * 6 + 1) | 1, side_y or round(sigma_y * 6 + 1) | 1
    padded = bordered(images_NCHW, _around(side_y), _around(side_x), "reflect")
    across = correlated(padded, _fixed_gaussian(side_x, sigma_x)[None])
    sums = correlated(across, _fixed_gaussian(side_y, sigma_y)[:, None])
    return ((sums + (1 << 15)) / (1 << 16)).floor_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _fixed_gaussian(side: int, sigma: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """OpenCV's Gaussian for bytes in 256ths, as it blurs an impulse: but in the middle, 255 / 256 of a weight is it."""
    impulse = np.zeros((1, 2 * side + 1), np.uint8)
    impulse[0, side] = 255
    line = cv2.GaussianBlur(impulse, (side, 1), sigma)[0, side - side // 2 : side + side // 2 + 1].astype(float)
    line[side // 2] += 256 - line.sum()
    return line
