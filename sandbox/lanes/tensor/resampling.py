"""Resizing: Pillow's with its own whole numbers, torch's if it is close to that, and OpenCV's.

Kornia's `resize` smooths with another filter, and has neither INTER_AREA nor INTER_LANCZOS4. Image patches need
Pillow's resize bit for bit: its own 22-bit coefficients, and rounding after each axis (`src/libImaging/Resample.c` of
Pillow 13).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sandbox.geometry import Size
from sandbox.lanes.tensor.filters import Array
from sandbox.lanes.tensor.kinds import operation
from sandbox.lanes.tensor.values import to_bytes
from sandbox.operations.operation import State, Values
from sandbox.operations.outputs import opencv_resized

Box = tuple[float, float, float, float]

_PRECISION_BITS = 22
#: Reach of each of Pillow's filters, in pixels of the source when enlarging.
_SUPPORT: dict[int, float] = {1: 3.0, 2: 1.0, 3: 2.0, 4: 0.5, 5: 1.0, 6: 2.5, 7: 4.5}
#: Pillow's filters that torch has too.
_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
#: Largest side of an image for which the matrix of a resize is small enough to build.
_MAX_SIDE = 4096


@lru_cache(maxsize=512)
def _coefficients(
    in_size: int, first: float, last: float, out_size: int, resample: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """First source index [out] of each sum, and its coefficients [out, taps] in units of 2**-22.

    Pillow resizes rows of impulses, one row for each place of a window. It rounds 32-bit integers in the same way as
    its own coefficients.
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
    # Selecting whole rows is faster than selecting columns.
    lines = images_NCHW if axis == 2 else images_NCHW.transpose(2, 3).contiguous()
    total = torch.full((), 1 << (_PRECISION_BITS - 1), dtype=torch.int32, device=images_NCHW.device)
    for tap in range(weights.shape[1]):
        picked = lines.index_select(2, (starts + tap).clamp(max=in_size - 1)).to(torch.int32)
        total = picked.mul_(weights[:, tap, None]).add_(total)
    result = (total >> _PRECISION_BITS).clamp_(0, 255).to(torch.uint8)
    return result if axis == 2 else result.transpose(2, 3).contiguous()


def _is_vertical_first(before: Size, after: Size) -> bool:
    """Pillow's own rule for the order of the axes, which matters because values are rounded in between."""
    (width, height), (wide, high) = before, after
    return height - high > 0 and height - high > (width - wide) * 2


def resample_images(images_NCHW: Tensor, size: Size, resample: int, box: Box | None = None) -> Tensor:
    """Resize as Pillow does, bit for bit.

    Args:
        images_NCHW: uint8.
        size: (width, height) of the result.
        resample: One of Pillow's filters except NEAREST.
        box: The part to resize, (x1, y1, x2, y2) in pixels; None for the whole image.

    Returns:
        uint8 [N, C, height, width].
    """
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    axes = [(3, left, right, width, size[0]), (2, top, bottom, height, size[1])]
    for axis, first, last, before, after in axes[::-1] if _is_vertical_first((width, height), size) else axes:
        if (first, last, before) != (0, after, after):
            images_NCHW = _pass(images_NCHW, axis, first, last, after, resample)
    return images_NCHW


def resized(images_NCHW: Tensor, size: Size, method: int, box: Box | None = None) -> Tensor:
    """Like `resample_images`, but for any of Pillow's filters."""
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = (float(np.float32(value)) for value in box or (0, 0, width, height))
    if left.is_integer() and top.is_integer() and (right - left, bottom - top) == size:
        return images_NCHW[:, :, int(top) : int(bottom), int(left) : int(right)].contiguous()
    if method != Image.Resampling.NEAREST:
        return resample_images(images_NCHW, size, method, (left, top, right, bottom))
    for axis, length, first, last in ((2, size[1], top, bottom), (3, size[0], left, right)):
        numbers = Image.fromarray(np.arange(images_NCHW.shape[axis], dtype=np.int32)[None])  # Pillow selects from them
        places = np.array(numbers.resize((length, 1), method, (first, 0, last, 1)), dtype=np.int64)[0]
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(places).to(images_NCHW.device))
    return images_NCHW


def _method_of(values: Values) -> int:
    return Image.Resampling.BICUBIC if values[1] is None else values[1]


def _refuses_interpolation(values: Values, state: State) -> bool:
    """Torch has only some of the filters, supports no box, and fails on an image with a side of one pixel."""
    is_known = _method_of(values) in _INTERPOLATIONS and values[2] is None and min(*values[0], *state.size) > 1
    return not is_known or _refuses_resize(values, state)


def _refuses_resize(values: Values, state: State) -> bool:
    size, method, box, gap = values
    left, top, right, bottom = box or (0, 0, *state.size)
    spans = ((right - left) / size[0], (bottom - top) / size[1])
    is_reduced = gap is not None and method != Image.Resampling.NEAREST and any(int(span / gap) > 1 for span in spans)
    return is_reduced or left < 0 or top < 0 or right > state.size[0] or bottom > state.size[1]


#: Growth for separable filters with negative lobes: absolute weights of an axis add up to at most 1.56 (Lanczos).
OVERSHOOT = 2.5


@operation("Image.resize", by="torch interpolate", most=2, growth=OVERSHOOT, refuses=_refuses_interpolation)
def _interpolate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """Resize with torch, whose weights for bytes have 16 bits."""
    (wide, high), mode = values[0][0], _INTERPOLATIONS[_method_of(values[0])]
    height, width = images_NCHW.shape[2:]
    first = (high, width) if _is_vertical_first((width, height), (wide, high)) else (height, wide)
    for sides in (first, (high, wide)):
        pixels = images_NCHW if images_NCHW.device.type == "cpu" else images_NCHW.float()
        pixels = torch.nn.functional.interpolate(pixels, sides, mode=mode, antialias=True)
        images_NCHW = to_bytes(pixels) if pixels.is_floating_point() else pixels
    return images_NCHW


@operation(
    "Image.resize",
    growth=OVERSHOOT,
    refuses=_refuses_resize,
    reason="a reducing step (reducing_gap) before the resampling is another algorithm",
)
def _resize(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return resized(images_NCHW, values[0][0], _method_of(values[0]), values[0][2])


def _refuses_opencv(values: Values, state: State) -> bool:
    """OpenCV copies an axis that keeps its length; here each axis is resized on its own, by a matrix of that length."""
    after = opencv_resized(values, state).size
    sides = list(zip(state.size, after, values[1:3], strict=True))
    is_copied = values[0] is None and any(old == new and factor != 1 for old, new, factor in sides)
    is_mixed = values[3] == cv2.INTER_AREA and any(new > old for old, new, _ in sides)
    return is_copied or is_mixed or max(*state.size, *after) > _MAX_SIDE


@lru_cache(maxsize=256)
def _opencv_matrix(before: int, after: int, factor: float, kind: int) -> Array:
    """OpenCV's own weights [after, before] of one axis, read by resizing an identity matrix."""
    identity = np.eye(before, dtype=np.float32)
    return cv2.resize(identity, None if factor else (before, after), fx=1, fy=factor, interpolation=kind)


@operation(
    "cv2.resize",
    by="torch matmul",
    most=lambda values: values[3] != cv2.INTER_NEAREST,
    growth=lambda values: OVERSHOOT if values[3] else 1,
    refuses=_refuses_opencv,
    reason="a factor that leaves a side as long as it was, INTER_AREA of an image that grows, a side above 4,096",
)
def _resize_opencv(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    size, across, down, kind = values[0]
    height, width = images_NCHW.shape[2:]
    wide, high = size or (round(width * across), round(height * down))
    down_matrix, across_matrix = (
        torch.from_numpy(_opencv_matrix(before, after, 0 if size else factor, kind)).to(images_NCHW.device)
        for before, after, factor in ((height, high, down), (width, wide, across))
    )
    return to_bytes(down_matrix @ images_NCHW.float() @ across_matrix.T)
