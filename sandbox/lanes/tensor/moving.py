"""Operations that move pixels: orientation, crop, border, paste; rotation, transforms and warps by Kornia's `remap`.

Kornia has the mirrors and the half turn, but no quarter turn, and it crops and pads by warping. Without interpolation,
we compute Pillow's 16.16 fixed point ourselves. The Pillow lane runs bicubic calls, because Pillow's kernel (a = -1) is
not the one of Torch and Kornia (a = -0.75).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from kornia.geometry import transform
from PIL import Image
from torch import Tensor

from sandbox.geometry import Affine, Size
from sandbox.lanes.tensor.filters import bordered
from sandbox.lanes.tensor.kinds import Call, operation
from sandbox.lanes.tensor.resampling import OVERSHOOT, resized
from sandbox.lanes.tensor.values import to_bytes
from sandbox.operations.operation import State, Values
from sandbox.operations.outputs import contained_size, pad_frame, rotation, transform_frame
from sandbox.operations.table import OPERATIONS

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
#: OpenCV's border modes that reuse the image's own pixels, as numpy names them.
_BORDERS = {cv2.BORDER_REPLICATE: "edge", cv2.BORDER_REFLECT: "symmetric", cv2.BORDER_REFLECT_101: "reflect"}


@operation("orient", by="kornia.geometry.hflip, vflip, rot180; torch.rot90", growth=1)
def _orient(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return _TURNS[values[0][0]](images_NCHW).contiguous()


def _fill(images_NCHW: Tensor, name: str, values: Values) -> Tensor:
    """The fill color [C, 1]: the first pixel after the library runs this call on an image of one pixel."""
    image = Image.new("RGB" if images_NCHW.shape[1] == 3 else "L", (1, 1))
    pixel: Any = OPERATIONS[name].call(image, values).getpixel((0, 0))
    color = pixel if isinstance(pixel, tuple) else (pixel,)
    return torch.tensor(color, dtype=torch.uint8, device=images_NCHW.device)[:, None]


def _placed(images_NCHW: Tensor, size: Size, left: int, top: int, fill_C1: Tensor) -> Tensor:
    """Place the images on a canvas of `size`, upper left corner at (left, top); parts outside are cut off."""
    n, channels, height, width = images_NCHW.shape
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, size[0]), min(top + height, size[1])
    part = images_NCHW[:, :, y1 - top : max(y2, y1) - top, x1 - left : max(x2, x1) - left]
    if (x1, y1, x2, y2) == (0, 0, *size):
        return part.contiguous()
    canvas = fill_C1[None, :, :, None].expand(n, channels, size[1], size[0]).contiguous()
    if x1 < x2 and y1 < y2:
        canvas[:, :, y1:y2, x1:x2] = part
    return canvas


def _moved(name: str, filling: Callable[[Values], Values]) -> Call:
    """A call that places the image on a canvas; `filling` gives values that show the fill color."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        before = (int(images_NCHW.shape[3]), int(images_NCHW.shape[2]))
        frame = OPERATIONS[name].frame(values[0], before) or Affine()
        size = OPERATIONS[name].after(values[0], State(before)).size
        fill_C1 = _fill(images_NCHW, name, filling(values[0]))
        return _placed(images_NCHW, size, -round(frame.c), -round(frame.f), fill_C1)

    return call


operation("Image.crop", growth=1)(_moved("Image.crop", lambda _: ((-1, -1, 1, 1),)))
operation("Image.paste", growth=1)(_moved("Image.paste", lambda values: ((2, 1), values[1], (1, 0))))
operation("ImageOps.expand", growth=1)(_moved("ImageOps.expand", lambda values: (1, values[1])))
_constant_border = _moved("cv2.copyMakeBorder", lambda values: (1, 0, 0, 0, *values[4:]))


@operation("cv2.copyMakeBorder", growth=1)
def _copy_border(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    top, bottom, left, right, kind, _ = values[0]
    if kind == cv2.BORDER_CONSTANT:
        return _constant_border(images_NCHW, values)
    return bordered(images_NCHW, (top, bottom), (left, right), _BORDERS[kind])


@operation(
    "ImageOps.pad",
    growth=OVERSHOOT,
    refuses=lambda values, state: min(contained_size(state.size, values[0])) < 1,
    reason="nothing of the image is left",
)
def _pad(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    size, method, color, _ = values[0]
    before = (int(images_NCHW.shape[3]), int(images_NCHW.shape[2]))
    frame = pad_frame(values[0], before) or Affine()
    inner = resized(images_NCHW, contained_size(before, size), method)
    if inner.shape[:1:-1] == size:
        return inner
    fill_C1 = _fill(images_NCHW, "ImageOps.pad", ((3, 1), method, color, (0.5, 0.5)))
    return _placed(inner, size, round(-frame.c / frame.a), round(-frame.f / frame.e), fill_C1)


def _sampling(name: str, values: Values, size: Size) -> tuple[Size, Sequence[float], int]:
    """Size after rotate or transform, the map to source places (a to h, empty if unknown), and the filter."""
    if name == "Image.rotate":
        after, frame = rotation(values, size)
        return after, (*astuple(frame), 0.0, 0.0) if values[0] % 90 else (), values[1]
    affine = transform_frame(values, size)
    perspective = values[2] if values[1] == Image.Transform.PERSPECTIVE else ()
    return values[0], (*astuple(affine), 0.0, 0.0) if affine else perspective, values[3]


def _refuses_sampling(name: str, values: Values, state: State) -> bool:
    (width, height), to_before, resample = _sampling(name, values, state.size)
    if not to_before or resample != Image.Resampling.NEAREST:
        return not to_before or resample == Image.Resampling.BICUBIC
    a, b, c, d, e, f, g, h = to_before
    most = max(abs(p * x + q * y + r) for p, q, r in ((a, b, c), (d, e, f)) for x in (0, width) for y in (0, height))
    return bool(g or h or b == d == 0 or most >= 32768)


def _sampled(name: str) -> Call:
    """Sample as Pillow does, with the fill color outside the image."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        height, width = images_NCHW.shape[2:]
        size, (a, b, c, d, e, f, g, h), resample = _sampling(name, values[0], (width, height))
        color = 0 if values[0][5] is None else values[0][5]
        if resample == Image.Resampling.NEAREST:
            rows, columns = _fixed_places(size, (a, b, c, d, e, f), images_NCHW.device)
            places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
            picked = images_NCHW.flatten(2)[:, :, places]
        else:
            xs, ys = _centers(size, images_NCHW.device)
            depth = g * xs + h * ys + 1
            columns, rows = (a * xs + b * ys + c) / depth, (d * xs + e * ys + f) / depth
            remapped = _remapped(images_NCHW.float(), rows - 0.5, columns - 0.5, "bilinear", "border")
            # Pillow truncates; the small offset corrects sums that rounding left just below a whole number.
            picked = (remapped + 1e-3).clamp_(0, 255).to(torch.uint8)
        is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        fill_C1 = _fill(images_NCHW, "Image.paste", ((2, 1), color, (1, 0)))
        return torch.where(is_inside, picked, fill_C1[..., None])

    return call


_REMAP = "kornia.geometry.remap"
_REASON = (
    "BICUBIC, which Kornia has with another parameter; without interpolation a mere scale, and coordinates of 32,768 "
    "or more, beyond Pillow's 16.16 fixed point"
)
for _name, _place, _more in (("Image.rotate", 1, "quarter turns"), ("Image.transform", 3, "quadrilaterals")):
    operation(
        _name,
        by=f"{_REMAP}; torch",
        most=lambda values, place=_place: values[place] != Image.Resampling.NEAREST,
        growth=lambda values, place=_place: OVERSHOOT if values[place] else 1,
        refuses=partial(_refuses_sampling, _name),
        reason=f"{_more}; {_REASON}",
    )(_sampled(_name))


def _centers(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centers of the result's pixels: xs [W] and ys [H, 1], float64."""
    xs = torch.arange(size[0], device=device, dtype=torch.float64) + 0.5
    return xs, torch.arange(size[1], device=device, dtype=torch.float64)[:, None] + 0.5


def _fixed_places(size: Size, affine: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns [H, W] of Pillow's affine transform in 16.16 fixed point."""
    a, b, c, d, e, f = affine
    a0, a1, a3, a4 = (math.floor(value * 65536.0 + 0.5) for value in (a, b, d, e))
    a2 = math.floor((c + a * 0.5 + b * 0.5) * 65536.0 + 0.5)
    a5 = math.floor((f + d * 0.5 + e * 0.5) * 65536.0 + 0.5)
    xs = torch.arange(size[0], device=device)
    ys = torch.arange(size[1], device=device)[:, None]
    return (a5 + ys * a4 + xs * a3) >> 16, (a2 + ys * a1 + xs * a0) >> 16


def _remapped(images_NCHW: Tensor, rows: Tensor, columns: Tensor, mode: str, padding: str) -> Tensor:
    """Kornia's `remap`, at places [H', W'] measured from the first pixel's center."""
    n, _, height, width = images_NCHW.shape
    # All far places give the same result, but a map with them would lose the fractions of near places in float32.
    maps = [
        places.clamp(-8.0, side + 8.0).nan_to_num(-8.0).float().expand(n, *places.shape)
        for places, side in ((columns, width), (rows, height))
    ]
    sampled: Tensor = transform.remap(
        images_NCHW, maps[0], maps[1], mode=mode, padding_mode=padding, align_corners=True
    )
    return sampled


def _refuses_warp(values: Values, state: State) -> bool:
    matrix, _, flags, _, _ = values
    is_singular = len(matrix.rows) == 3 and abs(np.linalg.det(matrix.array.astype(float))) < 1e-9
    return flags in (cv2.INTER_NEAREST, cv2.INTER_LANCZOS4) or min(state.size) < 2 or is_singular


@operation(
    "cv2.warpAffine",
    "cv2.warpPerspective",
    by=_REMAP,
    most=1,
    growth=OVERSHOOT,
    refuses=_refuses_warp,
    reason="INTER_NEAREST and INTER_LANCZOS4, images of one row or column, and a matrix without an inverse",
)
def _warp(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    matrix, size, flags, border, value = values[0]
    array = matrix.array.astype(np.float64)
    inverse = cv2.invert(array)[1] if len(array) == 3 else np.vstack([cv2.invertAffineTransform(array), [0, 0, 1]])
    ((a, b, c), (d, e, f), (g, h, i)) = inverse.tolist()
    xs, ys = (centers - 0.5 for centers in _centers(size, images_NCHW.device))
    depth = g * xs + h * ys + i
    is_edge = border == cv2.BORDER_REPLICATE
    scalar = list(value) if isinstance(value, tuple) else [value]
    color = torch.tensor([*scalar, 0, 0][: images_NCHW.shape[1]], device=images_NCHW.device).round()[:, None, None]
    base = 0 if is_edge else color.float()
    mode = "bicubic" if flags == cv2.INTER_CUBIC else "bilinear"  # INTER_AREA is bilinear in a warp
    rows, columns = (d * xs + e * ys + f) / depth, (a * xs + b * ys + c) / depth
    sampled = _remapped(images_NCHW.float() - base, rows, columns, mode, "border" if is_edge else "zeros") + base
    return to_bytes(sampled)
