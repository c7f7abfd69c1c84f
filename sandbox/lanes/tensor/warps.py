"""Operations that sample between pixels: rotation, transforms, warps. Bilinear and OpenCV's bicubic are Kornia's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from kornia.geometry.transform import remap
from PIL import Image
from torch import Tensor

from sandbox.geometry import Affine, Size
from sandbox.lanes.tensor.moving import fill, scaled, turned
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Values
from sandbox.operations.outputs import rotation, transform_frame


def rotate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.rotate` by any angle."""
    angle, resample, is_expanded, center, translate, fillcolor = values[0]
    height, width = images_NCHW.shape[2:]
    if not (center or translate):
        quarter = angle % 360.0
        if quarter == 0:
            return images_NCHW.clone()
        if quarter == 180 or (quarter in (90, 270) and (is_expanded or width == height)):
            return turned(images_NCHW, f"rotate_{int(quarter)}")
    size, frame = rotation(values[0], (width, height))
    return _affine(images_NCHW, size, frame, resample, fillcolor)


def transform(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.transform` by an affine map, a box, a perspective or a quadrilateral."""
    size, method, data, resample, _, fillcolor = values[0]
    frame = transform_frame(values[0], size)
    if frame is not None:
        return _affine(images_NCHW, size, frame, resample, fillcolor)
    xs, ys = _centers(size, images_NCHW.device)
    if method == Image.Transform.PERSPECTIVE:
        a, b, c, d, e, f, g, h = data
        depth = g * xs + h * ys + 1
        return _sampled(images_NCHW, (d * xs + e * ys + f) / depth, (a * xs + b * ys + c) / depth, resample, fillcolor)
    across, down = 1.0 / size[0], 1.0 / size[1]

    def bent(nw: float, sw: float, se: float, ne: float) -> Tensor:  # in Pillow's order: places may lie on a border
        turn = (se - sw - ne + nw) * across * down
        return torch.as_tensor(nw + (ne - nw) * across * xs + (sw - nw) * down * ys + turn * xs * ys)

    return _sampled(images_NCHW, bent(*data[1::2]), bent(*data[::2]), resample, fillcolor)


def is_beyond_fixed_point(frame: Affine, size: Size) -> bool:
    """Whether an affine map without interpolation leaves the range of Pillow's 16.16 arithmetic."""
    corners = [frame.point(x, y) for x in (0, size[0]) for y in (0, size[1])]
    return any(abs(value) >= 32768.0 for corner in corners for value in corner)


def _affine(images_NCHW: Tensor, size: Size, frame: Affine, resample: int, fillcolor: object) -> Tensor:
    fill_C1 = _fill(images_NCHW, fillcolor)
    if resample == 0 and frame.b == 0 and frame.d == 0:
        return scaled(images_NCHW, size, frame, fill_C1)
    if resample == 0:
        return _nearest(images_NCHW, size, frame, fill_C1)
    xs, ys = _centers(size, images_NCHW.device)
    columns, rows = frame.a * xs + frame.b * ys + frame.c, frame.d * xs + frame.e * ys + frame.f
    return _sampled(images_NCHW, rows, columns, resample, fillcolor)


def _fill(images_NCHW: Tensor, fillcolor: object) -> Tensor:
    colour: object = 0 if fillcolor is None else fillcolor
    return fill(images_NCHW, lambda image: Image.new(image.mode, (1, 1), colour))  # type: ignore[arg-type]


def _centers(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centers of the result's pixels: xs [W] and ys [H, 1], float64."""
    xs = torch.arange(size[0], device=device, dtype=torch.float64) + 0.5
    return xs, torch.arange(size[1], device=device, dtype=torch.float64)[:, None] + 0.5


def _nearest(images_NCHW: Tensor, size: Size, frame: Affine, fill_C1: Tensor) -> Tensor:
    """Pillow's affine transform in 16.16 fixed point."""
    a0, a1, a3, a4 = (math.floor(value * 65536.0 + 0.5) for value in (frame.a, frame.b, frame.d, frame.e))
    a2 = math.floor((frame.c + frame.a * 0.5 + frame.b * 0.5) * 65536.0 + 0.5)
    a5 = math.floor((frame.f + frame.d * 0.5 + frame.e * 0.5) * 65536.0 + 0.5)
    xs = torch.arange(size[0], device=images_NCHW.device)
    ys = torch.arange(size[1], device=images_NCHW.device)[:, None]
    columns, rows = (a2 + ys * a1 + xs * a0) >> 16, (a5 + ys * a4 + xs * a3) >> 16
    return torch.where(
        _is_inside(images_NCHW, rows, columns), _gathered(images_NCHW, rows, columns), fill_C1[..., None]
    )


def _is_inside(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = images_NCHW.shape[2:]
    return (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)


def _gathered(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels [N, C, H', W'] at whole places [H', W'], those outside moved to the edge."""
    n, channels, height, width = images_NCHW.shape
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return images_NCHW.reshape(n, channels, -1).index_select(2, places.reshape(-1)).view(n, channels, *places.shape)


def _sampled(images_NCHW: Tensor, rows: Tensor, columns: Tensor, resample: int, fillcolor: object) -> Tensor:
    """As Pillow samples at places [H', W'] measured from the image's corner; the fill colour outside."""
    is_inside = _is_inside(images_NCHW, rows, columns)
    rows, columns = torch.where(is_inside, rows, 0.0), torch.where(is_inside, columns, 0.0)
    if resample == 0:
        picked = _gathered(images_NCHW, rows.floor().long(), columns.floor().long())
    elif resample == 2:
        picked = _cut_off(_remapped(images_NCHW.float(), rows - 0.5, columns - 0.5, "bilinear", "border"))
    else:
        picked = _cut_off(_cubic(images_NCHW, rows - 0.5, columns - 0.5))
    return torch.where(is_inside, picked, _fill(images_NCHW, fillcolor)[..., None])


def _cut_off(values_NCHW: Tensor) -> Tensor:
    """Bytes without what is behind the point; sums that fall short of a whole number by rounding are that number."""
    return (values_NCHW + 1e-3).clamp_(0, 255).to(torch.uint8)


def _remapped(images_NCHW: Tensor, rows: Tensor, columns: Tensor, mode: str, padding: str) -> Tensor:
    """Kornia's `remap`, at places [H', W'] measured from the first pixel's center."""
    n, _, height, width = images_NCHW.shape
    # Far places differ in nothing, but a float32 of them loses the near ones' fractions.
    maps = [
        places.clamp(-8.0, side + 8.0).nan_to_num(-8.0).float().expand(n, *places.shape)
        for places, side in ((columns, width), (rows, height))
    ]
    sampled: Tensor = remap(images_NCHW, maps[0], maps[1], mode=mode, padding_mode=padding, align_corners=True)
    return sampled


def _cubic(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pillow's bicubic of transforms, steeper (a = -1) than that of torch and Kornia (-0.75)."""
    top, left = rows.floor(), columns.floor()
    total = torch.zeros((), device=images_NCHW.device)
    weights_x, weights_y = _cubic_weights(columns - left), _cubic_weights(rows - top)
    for down, weight_y in enumerate(weights_y, -1):
        line = torch.zeros((), device=images_NCHW.device)
        for right, weight_x in enumerate(weights_x, -1):
            line = line + weight_x * _gathered(images_NCHW, top.long() + down, left.long() + right)
        total = total + weight_y * line
    return total


def _cubic_weights(d: Tensor) -> list[Tensor]:
    square, cube = d * d, d * d * d
    weights = (2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square)
    return [weight.float() for weight in weights]


def warp(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.warpAffine` and `cv2.warpPerspective`, beyond the image one value or its edge."""
    matrix, size, flags, border, value = values[0]
    ((a, b, c), (d, e, f), (g, h, i)) = _inverted(matrix)
    xs, ys = (centers - 0.5 for centers in _centers(size, images_NCHW.device))
    depth = g * xs + h * ys + i
    columns, rows = (a * xs + b * ys + c) / depth, (d * xs + e * ys + f) / depth
    scalar = list(value) if isinstance(value, tuple) else [value]
    colour = torch.tensor([*scalar, 0, 0][: images_NCHW.shape[1]], device=images_NCHW.device).round()[:, None, None]
    is_edge = border == cv2.BORDER_REPLICATE
    if flags == cv2.INTER_NEAREST:
        rows, columns = rows.float().round().long(), columns.float().round().long()
        picked, is_inside = _gathered(images_NCHW, rows, columns), _is_inside(images_NCHW, rows, columns)
        return picked if is_edge else torch.where(is_inside, picked, colour.to(torch.uint8))
    base = 0 if is_edge else colour.float()
    mode = "bicubic" if flags == cv2.INTER_CUBIC else "bilinear"  # INTER_AREA is bilinear in a warp
    sampled = _remapped(images_NCHW.float() - base, rows, columns, mode, "border" if is_edge else "zeros") + base
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _inverted(matrix: Table) -> Any:
    """Rows of the 3 x 3 matrix from the result's pixels to the image's."""
    if len(matrix.rows) == 3:
        return cv2.invert(matrix.array.astype(np.float64))[1].tolist()
    return [*cv2.invertAffineTransform(matrix.array.astype(np.float64)).tolist(), [0.0, 0.0, 1.0]]
