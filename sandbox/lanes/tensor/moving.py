"""Operations that move pixels: orientation, crop, border, resize, rotation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sandbox.geometry import Affine
from sandbox.lanes.tensor.resampling import Box, resample_images
from sandbox.operations.operation import Values
from sandbox.operations.outputs import borders, contained_size, rotation, rounded_box

_TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "rotate_90": lambda x: torch.rot90(x, 1, (2, 3)),
    "rotate_180": lambda x: x.flip((2, 3)),
    "rotate_270": lambda x: torch.rot90(x, -1, (2, 3)),
    "flip_horizontal": lambda x: x.flip(3),
    "flip_vertical": lambda x: x.flip(2),
    "transpose": lambda x: x.transpose(2, 3),
    "transverse": lambda x: x.transpose(2, 3).flip((2, 3)),
}


def turned(images_NCHW: Tensor, orientation: str) -> Tensor:
    """The images in one of the eight orientations."""
    return _TURNS[orientation](images_NCHW).contiguous()


def orient(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.transpose`."""
    return turned(images_NCHW, values[0][0])


def _fill(images_NCHW: Tensor, call: Callable[[Image.Image], Image.Image]) -> Tensor:
    """The fill colour [C, 1] that Pillow itself gives the first pixel of `call`'s result."""
    pixel: Any = call(Image.new("RGB" if images_NCHW.shape[1] == 3 else "L", (1, 1))).getpixel((0, 0))
    colour = pixel if isinstance(pixel, tuple) else (pixel,)
    return torch.tensor(colour, dtype=torch.uint8, device=images_NCHW.device)[:, None]


def _placed(images_NCHW: Tensor, size: tuple[int, int], left: int, top: int, fill_C1: Tensor) -> Tensor:
    """On a canvas of `size` (width, height) with the upper left corner at (left, top); what lies outside is cut."""
    n, channels, height, width = images_NCHW.shape
    canvas = fill_C1[None, :, :, None].expand(n, channels, size[1], size[0]).contiguous()
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, size[0]), min(top + height, size[1])
    if x1 < x2 and y1 < y2:
        canvas[:, :, y1:y2, x1:x2] = images_NCHW[:, :, y1 - top : y2 - top, x1 - left : x2 - left]
    return canvas


def crop(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.crop`: black outside."""
    left, top, right, bottom = rounded_box(values[0][0])
    height, width = images_NCHW.shape[2:]
    if 0 <= left <= right <= width and 0 <= top <= bottom <= height:
        return images_NCHW[:, :, top:bottom, left:right].contiguous()
    black = torch.zeros(images_NCHW.shape[1], 1, dtype=torch.uint8, device=images_NCHW.device)
    return _placed(images_NCHW, (right - left, bottom - top), -left, -top, black)


def paste(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.paste` on a canvas of one colour."""
    size, color, (left, top) = values[0]
    return _placed(images_NCHW, size, left, top, _fill(images_NCHW, lambda image: Image.new(image.mode, (1, 1), color)))


def expand(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageOps.expand`."""
    border, fill = values[0]
    left, top, right, bottom = borders(border)
    height, width = images_NCHW.shape[2:]
    colour = _fill(images_NCHW, lambda image: ImageOps.expand(image, 1, fill))
    return _placed(images_NCHW, (width + left + right, height + top + bottom), left, top, colour)


def pad(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageOps.pad`."""
    size, method, color, centering = values[0]
    height, width = images_NCHW.shape[2:]
    inner = contained_size((width, height), size)
    resized = _resized(images_NCHW, inner, method, None)
    if inner == size:
        return resized
    left = round((size[0] - inner[0]) * centering[0]) if inner[0] != size[0] else 0
    top = 0 if inner[0] != size[0] else round((size[1] - inner[1]) * centering[1])
    colour = _fill(images_NCHW, lambda image: ImageOps.pad(image, (3, 1), color=color))
    return _placed(resized, size, left, top, colour)


def resize(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.resize` without a reducing step."""
    size, method, box, _ = values[0]
    return _resized(images_NCHW, size, 3 if method is None else method, box)


def _resized(images_NCHW: Tensor, size: tuple[int, int], method: int, box: Box | None) -> Tensor:
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = (float(np.float32(value)) for value in box or (0, 0, width, height))
    if left.is_integer() and top.is_integer() and (right - left, bottom - top) == size:
        return images_NCHW[:, :, int(top) : int(bottom), int(left) : int(right)].contiguous()
    if method != 0:
        return resample_images(images_NCHW, size, method, (left, top, right, bottom))
    scale = Affine(
        float(np.float32(right - left)) / size[0], 0.0, left, 0.0, float(np.float32(bottom - top)) / size[1], top
    )
    black = torch.zeros(images_NCHW.shape[1], 1, dtype=torch.uint8, device=images_NCHW.device)
    return _scaled(images_NCHW, size, scale, black)


def _scaled(images_NCHW: Tensor, size: tuple[int, int], frame: Affine, fill_C1: Tensor) -> Tensor:
    """Nearest pixels along both axes; places are summed up as Pillow does, for sums of many steps are rounded."""
    height, width = images_NCHW.shape[2:]
    indices, masks = [], []
    for out_size, in_size, start, step in ((size[1], height, frame.f, frame.e), (size[0], width, frame.c, frame.a)):
        places = np.add.accumulate(np.concatenate([[start + step * 0.5], np.full(out_size - 1, step)]))
        whole = np.where(places < 0, -1, np.trunc(places)).astype(np.int64)
        is_inside = (whole >= 0) & (whole < in_size)
        indices.append(torch.from_numpy(np.where(is_inside, whole, 0)).to(images_NCHW.device))
        masks.append(torch.from_numpy(is_inside).to(images_NCHW.device))
    picked = images_NCHW.index_select(2, indices[0]).index_select(3, indices[1])
    if all(bool(mask.all()) for mask in masks):
        return picked
    return torch.where(masks[0][:, None] & masks[1], picked, fill_C1[None, :, :, None])


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
    fill_C1 = _fill(images_NCHW, lambda image: Image.new(image.mode, (1, 1), 0 if fillcolor is None else fillcolor))
    if resample == 0 and frame.b == 0 and frame.d == 0:
        return _scaled(images_NCHW, size, frame, fill_C1)
    pick = {0: _nearest, 2: _bilinear, 3: _bicubic}[resample]
    return pick(images_NCHW, size, frame, fill_C1)


def is_beyond_fixed_point(values: Values, size: tuple[int, int]) -> bool:
    """Whether a rotation without interpolation leaves the range of Pillow's 16.16 arithmetic."""
    out_size, frame = rotation(values, size)
    corners = [frame.point(x, y) for x in (0, out_size[0]) for y in (0, out_size[1])]
    return any(abs(value) >= 32768.0 for corner in corners for value in corner)


def _nearest(images_NCHW: Tensor, size: tuple[int, int], frame: Affine, fill_C1: Tensor) -> Tensor:
    """Pillow's affine transform in 16.16 fixed point."""
    a0, a1, a3, a4 = (math.floor(value * 65536.0 + 0.5) for value in (frame.a, frame.b, frame.d, frame.e))
    a2 = math.floor((frame.c + frame.a * 0.5 + frame.b * 0.5) * 65536.0 + 0.5)
    a5 = math.floor((frame.f + frame.d * 0.5 + frame.e * 0.5) * 65536.0 + 0.5)
    xs = torch.arange(size[0], device=images_NCHW.device)
    ys = torch.arange(size[1], device=images_NCHW.device)[:, None]
    columns, rows = (a2 + ys * a1 + xs * a0) >> 16, (a5 + ys * a4 + xs * a3) >> 16
    height, width = images_NCHW.shape[2:]
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    picked = _gathered(images_NCHW, rows, columns)
    return torch.where(is_inside, picked, fill_C1[None, :, :, None])


def _gathered(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels [N, C, H', W'] at whole places [H', W'], those outside moved to the edge."""
    n, channels, height, width = images_NCHW.shape
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return images_NCHW.reshape(n, channels, -1).index_select(2, places.reshape(-1)).view(n, channels, *places.shape)


def _places(images_NCHW: Tensor, size: tuple[int, int], frame: Affine) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns [H', W'] in float64 minus half a pixel, and which of them lie in the image."""
    xs = torch.arange(size[0], device=images_NCHW.device, dtype=torch.float64) + 0.5
    ys = torch.arange(size[1], device=images_NCHW.device, dtype=torch.float64)[:, None] + 0.5
    columns = frame.a * xs + frame.b * ys + frame.c
    rows = frame.d * xs + frame.e * ys + frame.f
    height, width = images_NCHW.shape[2:]
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return rows - 0.5, columns - 0.5, is_inside


def _bilinear(images_NCHW: Tensor, size: tuple[int, int], frame: Affine, fill_C1: Tensor) -> Tensor:
    rows, columns, is_inside = _places(images_NCHW, size, frame)
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    y, x = top.long(), left.long()

    def along(row: Tensor) -> Tensor:
        first, second = (_gathered(images_NCHW, row, x + step).double() for step in (0, 1))
        return first + (second - first) * right

    upper, lower = along(y), along(y + 1)
    return torch.where(is_inside, (upper + (lower - upper) * down).to(torch.uint8), fill_C1[None, :, :, None])


def _cubic(v1: Tensor, v2: Tensor, v3: Tensor, v4: Tensor, d: Tensor) -> Tensor:
    p2, p3, p4 = -v1 + v3, 2 * (v1 - v2) + v3 - v4, -v1 + v2 - v3 + v4
    return v2 + d * (p2 + d * (p3 + d * p4))


def _bicubic(images_NCHW: Tensor, size: tuple[int, int], frame: Affine, fill_C1: Tensor) -> Tensor:
    rows, columns, is_inside = _places(images_NCHW, size, frame)
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    y, x = top.long() - 1, left.long() - 1

    def along(row: Tensor) -> Tensor:
        v1, v2, v3, v4 = (_gathered(images_NCHW, row, x + step).double() for step in range(4))
        return _cubic(v1, v2, v3, v4, right)

    lines = [along(y + step) for step in range(4)]
    value = _cubic(lines[0], lines[1], lines[2], lines[3], down).clamp(0, 255)
    return torch.where(is_inside, value.to(torch.uint8), fill_C1[None, :, :, None])


def margin(images_NCHW: Tensor, width: int) -> Tensor:
    """With the edge pixels repeated outwards."""
    for axis in (2, 3):
        size = images_NCHW.shape[axis]
        places = torch.arange(-width, size + width, device=images_NCHW.device).clamp(0, size - 1)
        images_NCHW = images_NCHW.index_select(axis, places)
    return images_NCHW
