"""Sums, medians and extremes around each pixel by Kornia, with Pillow's and OpenCV's kernels, borders and rounding.

Kornia filters floats. A sum of whole numbers is whole in any order, so it is rounded back. That makes kernels of whole
weights, boxes and extremes exact. Other kernels may differ by one if a sum is halfway between two values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from kornia import filters, morphology
from PIL import ImageFilter
from torch import Tensor

from sandbox.lanes.tensor.kinds import Call, operation
from sandbox.lanes.tensor.values import blend, blend_growth
from sandbox.operations.operation import State, Values

Array = np.ndarray[Any, Any]
#: Largest number of float32 values in all windows held at once: 64 MB.
_WINDOW_VALUES = 1 << 24
FILTER2D = "kornia.filters.filter2d"
#: Largest sum of absolute weights at which float32 still resolves sums of bytes.
MAX_WEIGHTS = 1 << 12


def correlated(images_NCHW: Tensor, weights: Array) -> Tensor:
    """Sums at the positions where the kernel fits the image, float32 [N, C, H - kH + 1, W - kW + 1]."""
    kernel = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)).to(images_NCHW.device)
    sums: Tensor = filters.filter2d(images_NCHW.float(), kernel[None], padding="valid")
    return sums.round_() if bool((weights == np.round(weights)).all()) else sums


def bordered(images_NCHW: Tensor, down: tuple[int, int], right: tuple[int, int], mode: str) -> Tensor:
    """Add margins of any width: "edge" repeats the edge, "reflect" mirrors without it (OpenCV's default)."""
    for axis, margin in ((2, down), (3, right)):
        places = np.pad(np.arange(images_NCHW.shape[axis]), margin, mode=mode)  # type: ignore[call-overload]
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(places).to(images_NCHW.device))
    return images_NCHW


def in_strips(images_NCHW: Tensor, reach: int, n_taps: int, call: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a local filter in strips of rows, so that the memory for `n_taps` neighbors of each pixel stays small."""
    height = images_NCHW.shape[2]
    step = max(1, _WINDOW_VALUES // max(1, images_NCHW[:, :, 0].numel() * n_taps))
    strips = []
    for start in range(0, height, step):
        first, end = max(0, start - reach), min(height, start + step)
        done = call(images_NCHW[:, :, first : min(height, end + reach)])
        strips.append(done[:, :, start - first : end - first])
    return torch.cat(strips, 2)


def _convolve(images_NCHW: Tensor, kernel: Any) -> Tensor:
    """`Image.filter` with a kernel (size, divisor, offset, weights), lowest row first; border pixels do not change."""
    (side, _), divisor, offset, numbers = kernel
    height, width = images_NCHW.shape[2:]
    result = images_NCHW.clone()
    if height >= side and width >= side:
        sums = correlated(images_NCHW, np.array(numbers, dtype=np.float64).reshape(side, side)[::-1])
        inner = (sums / divisor + (offset + 0.5)).floor_().clamp_(0, 255).to(torch.uint8)
        reach = side // 2
        result[:, :, reach : height - reach, reach : width - reach] = inner
    return result


def _by_kernel(kernel: Any) -> Call:
    return lambda images_NCHW, _: _convolve(images_NCHW, kernel)


#: The kernels without arguments. Quotients of the last two may be halfway, which float32 cannot represent.
for _name in (
    *("BLUR", "SMOOTH", "CONTOUR", "FIND_EDGES", "EDGE_ENHANCE", "EDGE_ENHANCE_MORE", "SHARPEN", "EMBOSS"),
    *("SMOOTH_MORE", "DETAIL"),
):
    _kernel = getattr(ImageFilter, _name).filterargs
    operation(
        f"ImageFilter.{_name}",
        by=FILTER2D,
        most=_name in ("SMOOTH_MORE", "DETAIL"),
        growth=sum(map(abs, _kernel[3])) / _kernel[1],
    )(_by_kernel(_kernel))


def _kernel_of(values: Values) -> Any:
    size, numbers, scale, offset = values
    return size, sum(numbers) if scale is None else scale, offset, numbers


def _is_large_kernel(values: Values, state: State) -> bool:
    _, divisor, _, numbers = _kernel_of(values)
    return not divisor or sum(map(abs, numbers)) > min(abs(divisor), 1) * MAX_WEIGHTS


@operation(
    "ImageFilter.Kernel",
    by=FILTER2D,
    most=1,
    refuses=_is_large_kernel,
    reason="weights so large that float32 loses the pixel",
)
def _custom_kernel(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return _convolve(images_NCHW, _kernel_of(values[0]))


@operation("ImageEnhance.Sharpness", by=FILTER2D, is_per_image=True, growth=blend_growth)
def _sharpness(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return blend(_convolve(images_NCHW, ImageFilter.SMOOTH.filterargs), images_NCHW, values)


def _box_line(images_NCHW: Tensor, radius: float, axis: int) -> Tensor:
    """One pass of Pillow's box along an axis; the fraction of the radius weights the two outermost pixels."""
    reach = int(radius)
    inner = int((1 << 24) / (radius * 2 + 1))
    weights = np.full(2 * reach + 3, inner / (1 << 24))
    weights[[0, -1]] = ((1 << 24) - (2 * reach + 1) * inner) // 2 / (1 << 24)
    margin = (reach + 1, reach + 1)
    padded = bordered(images_NCHW, margin if axis == 2 else (0, 0), margin if axis == 3 else (0, 0), "edge")
    sums = correlated(padded, weights[:, None] if axis == 2 else weights[None])
    return sums.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _boxes(images_NCHW: Tensor, radius: float, passes: int) -> Tensor:
    """Apply `passes` boxes along the rows, then as many along the columns."""
    for axis in (3, 2) if radius else ():
        for _ in range(passes):
            images_NCHW = _box_line(images_NCHW, radius, axis)
    return images_NCHW.clone()


@operation("ImageFilter.BoxBlur", by=FILTER2D, most=1, growth=1)
def _box_blur(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return _boxes(images_NCHW, values[0][0], 1)


@operation("ImageFilter.GaussianBlur", by=FILTER2D, most=2, growth=1)
def _pillow_gaussian(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """Three boxes with the radius of `_gaussian_blur_radius` in Pillow's `BoxBlur.c`."""
    variance = values[0][0] ** 2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return _boxes(images_NCHW, whole + part / (6 * (variance - (whole + 1) ** 2)), 3)


@operation(
    "ImageFilter.UnsharpMask",
    by=FILTER2D,
    most=2,
    far=0.02,
    refuses=lambda values, _: values[1] > 200,
    reason="more than 200 percent enlarges a rounding of the blur",
)
def _unsharp_mask(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    radius, percent, threshold = values[0]
    image = images_NCHW.int()
    difference = image - _pillow_gaussian(images_NCHW, [(radius,)])
    sharper = image + torch.div(difference * percent, 100, rounding_mode="trunc")
    return torch.where(difference.abs() > threshold, sharper, image).clamp_(0, 255).to(torch.uint8)


@operation("ImageFilter.MedianFilter", "cv2.medianBlur", by="kornia.filters.median_blur", growth=1)
def _median(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    side = values[0][0]
    if side == 1:
        return images_NCHW.clone()

    def median(strip: Tensor) -> Any:
        return filters.median_blur(strip.float(), side, "replicate").to(torch.uint8)

    return in_strips(images_NCHW, side // 2, 2 * side * side, median)


def _extreme(images_NCHW: Tensor, shape: Array, times: int, *, is_least: bool) -> Tensor:
    """The least or greatest value under the kernel; positions outside the image are ignored."""
    if shape.size == 1:
        return images_NCHW
    kernel = torch.from_numpy(np.ascontiguousarray(shape)).float().to(images_NCHW.device)
    image = images_NCHW.float()
    for _ in range(times):
        if is_least:
            image = morphology.erosion(image, kernel)
        else:  # Kornia mirrors the kernel, OpenCV does not
            origin = [side - 1 - side // 2 for side in shape.shape]
            image = morphology.dilation(image, kernel.flip((0, 1)), origin=origin)
        image = image.clamp_(0, 255)  # if no part of a kernel meets the image, the result is infinite
    return image.to(torch.uint8)


def _extreme_of(*, is_least: bool) -> Call:
    """The extreme along the rows, then along the columns."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        line = np.ones((1, values[0][0]))
        return _extreme(_extreme(images_NCHW, line, 1, is_least=is_least), line.T, 1, is_least=is_least)

    return call


_MORPHOLOGY = "kornia.morphology"
_least = operation("ImageFilter.MinFilter", by=_MORPHOLOGY, growth=1)(_extreme_of(is_least=True))
_greatest = operation("ImageFilter.MaxFilter", by=_MORPHOLOGY, growth=1)(_extreme_of(is_least=False))


@operation(
    "ImageFilter.RankFilter",
    by="kornia.filters.median_blur; kornia.morphology",
    growth=1,
    refuses=lambda values, _: values[1] not in (0, values[0] ** 2 // 2, values[0] ** 2 - 1),
    reason="Kornia has no rank but the least, the median and the greatest",
)
def _rank(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    side, rank = values[0]
    call = _median if rank == side * side // 2 else _greatest if rank else _least
    return call(images_NCHW, [(side,)])


#: Steps of each operation (e erodes, d dilates); the result is an image, or the difference of two.
_STEPS: dict[int, tuple[str, ...]] = {
    cv2.MORPH_ERODE: ("e",),
    cv2.MORPH_DILATE: ("d",),
    cv2.MORPH_OPEN: ("ed",),
    cv2.MORPH_CLOSE: ("de",),
    cv2.MORPH_GRADIENT: ("d", "e"),
    cv2.MORPH_TOPHAT: ("", "ed"),
    cv2.MORPH_BLACKHAT: ("de", ""),
}


@operation("cv2.morphologyEx", by=_MORPHOLOGY, growth=2)
def _morphology(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    kind, kernel, times = values[0]
    shape, done = np.ones((3, 3)) if kernel is None else kernel.array != 0, [images_NCHW for _ in _STEPS[kind]]
    for place, steps in enumerate(_STEPS[kind]):
        for step in steps:
            done[place] = _extreme(done[place], shape, times, is_least=step == "e")
    return done[0] if len(done) == 1 else (done[0].to(torch.int16) - done[1]).clamp_(0, 255).to(torch.uint8)


def _of_kind(kind: int) -> Call:
    return lambda images_NCHW, values: _morphology(images_NCHW, [(kind, *values[0])])


operation("cv2.erode", by=_MORPHOLOGY, growth=1)(_of_kind(cv2.MORPH_ERODE))
operation("cv2.dilate", by=_MORPHOLOGY, growth=1)(_of_kind(cv2.MORPH_DILATE))
