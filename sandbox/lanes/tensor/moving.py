"""Operations that move whole pixels (orientation, crop, border) and Pillow's resize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from kornia.geometry import transform
from PIL import Image, ImageOps
from torch import Tensor

from sandbox.geometry import Affine
from sandbox.lanes.tensor.filters import bordered
from sandbox.lanes.tensor.resampling import Box, is_vertical_first, resample_images
from sandbox.operations.operation import Values
from sandbox.operations.outputs import borders, contained_size, rounded_box
from sandbox.operations.table import OPERATIONS

#: Kornia has the mirrors and the half turn, but no quarter turn.
_TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "rotate_90": lambda x: torch.rot90(x, 1, (2, 3)),
    "rotate_180": transform.rot180,
    "rotate_270": lambda x: torch.rot90(x, -1, (2, 3)),
    "flip_horizontal": transform.hflip,
    "flip_vertical": transform.vflip,
    "transpose": lambda x: x.transpose(2, 3),
    "transverse": lambda x: transform.rot180(x.transpose(2, 3)),
}


def turned(images_NCHW: Tensor, orientation: str) -> Tensor:
    """The images in one of the eight orientations."""
    return _TURNS[orientation](images_NCHW).contiguous()


def orient(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.transpose`."""
    return turned(images_NCHW, values[0][0])


def fill(images_NCHW: Tensor, call: Callable[[Image.Image], Image.Image]) -> Tensor:
    """The colour [C, 1] that Pillow itself gives the first pixel of `call`'s result."""
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
    return _placed(images_NCHW, size, left, top, fill(images_NCHW, lambda image: Image.new(image.mode, (1, 1), color)))


def expand(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageOps.expand`."""
    border, colour = values[0]
    left, top, right, bottom = borders(border)
    height, width = images_NCHW.shape[2:]
    fill_C1 = fill(images_NCHW, lambda image: ImageOps.expand(image, 1, colour))
    return _placed(images_NCHW, (width + left + right, height + top + bottom), left, top, fill_C1)


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
    colour = fill(images_NCHW, lambda image: ImageOps.pad(image, (3, 1), color=color))
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
    return scaled(images_NCHW, size, scale, black)


#: Pillow's filters that torch has, too.
_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def declines_interpolation(values: Values, size: tuple[int, int]) -> str | None:
    """Why `interpolate` does not do a resize; None if it does."""
    method, box = values[1], values[2]
    if (3 if method is None else method) not in _INTERPOLATIONS:
        return "a filter that torch does not have"
    if min(*values[0], *size) < 2:
        return "torch fails on a line of pixels"
    return None if box is None else "a box, beyond whose edges Pillow looks"


def interpolate(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.resize` by torch, whose weights of bytes have 16 bits; Kornia's `resize` blurs before it picks."""
    size, method = values[0][:2]
    mode = _INTERPOLATIONS[3 if method is None else method]
    height, width = images_NCHW.shape[2:]
    first = (size[1], width) if is_vertical_first((width, height), size) else (height, size[0])
    for sides in (first, size[::-1]):
        pixels = images_NCHW if images_NCHW.device.type == "cpu" else images_NCHW.float()
        pixels = torch.nn.functional.interpolate(pixels, sides, mode=mode, antialias=True)
        images_NCHW = pixels.round().clamp(0, 255).to(torch.uint8) if pixels.is_floating_point() else pixels
    return images_NCHW


def scaled(images_NCHW: Tensor, size: tuple[int, int], frame: Affine, fill_C1: Tensor) -> Tensor:
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


def resize_opencv_nearest(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.resize` with `INTER_NEAREST`: OpenCV resizes the numbers of the lines."""
    size, across, down, kind = values[0]
    for axis, length, factor in ((2, size and size[1], down), (3, size and size[0], across)):
        lines = np.arange(images_NCHW.shape[axis], dtype=np.float32)[:, None]
        picked = cv2.resize(lines, (1, length) if size else None, fx=1, fy=factor, interpolation=kind)
        images_NCHW = images_NCHW.index_select(axis, torch.from_numpy(picked[:, 0]).to(images_NCHW.device, torch.int64))
    return images_NCHW


#: OpenCV's borders of the image's own pixels, as numpy names them.
_BORDERS = {cv2.BORDER_REPLICATE: "edge", cv2.BORDER_REFLECT: "symmetric", cv2.BORDER_REFLECT_101: "reflect"}


def copy_border(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.copyMakeBorder`."""
    top, bottom, left, right, kind, value = values[0]
    if kind != cv2.BORDER_CONSTANT:
        return bordered(images_NCHW, (top, bottom), (left, right), _BORDERS[kind])
    call = OPERATIONS["cv2.copyMakeBorder"].call
    colour_C1 = fill(images_NCHW, lambda image: call(image, (1, 0, 0, 0, kind, value)))
    height, width = images_NCHW.shape[2:]
    return _placed(images_NCHW, (width + left + right, height + top + bottom), left, top, colour_C1)
