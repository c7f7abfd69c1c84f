"""OpenCV's algorithms of which Kornia has another definition, on tensors: each names what Kornia lacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from kornia import filters
from torch import Tensor

from sandbox.lanes.tensor.filters import bordered, box_sums, in_strips, to_bytes
from sandbox.operations.operation import Values

#: Rounds in which weak edges may grow from strong ones: an edge that winds on for more pixels is left to OpenCV.
MAX_ROUNDS = 1024
#: Rounds between two looks at the device.
_ROUNDS_AT_ONCE = 16
#: Side of an image from which on the matrix of a resize is too large to make.
MAX_SIDE = 4096


class NotBoundedError(RuntimeError):
    """What is left to do depends on the pixels, and is more than the lane does."""


@lru_cache(maxsize=256)
def _resize_matrix(before: int, after: int, factor: float, kind: int) -> Any:
    """OpenCV's own weights [after, before] of one axis: it resizes an identity."""
    identity = np.eye(before, dtype=np.float32)
    if factor:
        return cv2.resize(identity, None, fx=1, fy=factor, interpolation=kind)
    return cv2.resize(identity, (before, after), interpolation=kind)


def resize(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.resize` with any filter, as two matrix products; Kornia has neither INTER_AREA nor INTER_LANCZOS4."""
    size, across, down, kind = values[0]
    height, width = images_NCHW.shape[2:]
    wide, high = size or (round(width * across), round(height * down))
    matrices = [
        torch.from_numpy(_resize_matrix(before, after, 0 if size else factor, kind)).to(images_NCHW.device)
        for before, after, factor in ((height, high, down), (width, wide, across))
    ]
    return to_bytes(matrices[0] @ images_NCHW.float() @ matrices[1].T)


def bilateral(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.bilateralFilter`: Kornia's `bilateral_blur` takes a square of neighbours, OpenCV a disk."""
    reach, sigma_color, sigma_space = max(values[0][0] // 2, 1), *values[0][1:]
    places = range(-reach, reach + 1)
    disk = [(y, x) for y in places for x in places if y * y + x * x <= reach * reach]

    def call(strip: Tensor) -> Tensor:
        height, width = strip.shape[2:]
        padded, middle = bordered(strip, (reach, reach), (reach, reach), "reflect").float(), strip.float()
        total, weights = torch.zeros_like(middle), torch.zeros_like(middle[:, :1])
        for y, x in disk:
            part = padded[:, :, reach + y : reach + y + height, reach + x : reach + x + width]
            distance = (part - middle).abs_().sum(1, keepdim=True)
            weight = (distance.square_() * (-0.5 / sigma_color**2) - 0.5 * (y * y + x * x) / sigma_space**2).exp_()
            total.addcmul_(part, weight)
            weights.add_(weight)
        return to_bytes(total / weights)

    # A strip's own border is mirrored, but cut off: `in_strips` gives each as many rows more as the filter reaches.
    return in_strips(images_NCHW, reach, 8, call)


def adaptive_threshold(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.adaptiveThreshold` against the mean or the Gaussian mean around each pixel; Kornia has none."""
    most, method, kind, side, shift = values[0]
    padded = bordered(images_NCHW, (side // 2, side // 2), (side // 2, side // 2), "edge")
    if method == cv2.ADAPTIVE_THRESH_MEAN_C:
        means = box_sums(padded, (side, side)) / (side * side)
    else:
        line = torch.from_numpy(cv2.getGaussianKernel(side, 0, cv2.CV_32F).T.copy()).to(images_NCHW.device)
        means = filters.filter2d_separable(padded.float(), line, line, padding="valid")
    level = int(np.floor(shift) if kind == cv2.THRESH_BINARY_INV else np.ceil(shift))
    is_above: Tensor = images_NCHW.to(torch.int16) - to_bytes(means).to(torch.int16) > -level
    value = int(np.clip(np.rint(most), 0, 255))
    return torch.where(is_above == (kind == cv2.THRESH_BINARY), value, 0).to(torch.uint8)


def clahe(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.createCLAHE`: Kornia's `equalize_clahe` clips and pads otherwise and differs by up to 47 of 255."""
    limit, (across, down) = values[0]
    n, _, height, width = images_NCHW.shape
    image = images_NCHW
    if width % across or height % down:  # OpenCV adds a whole row or column of tiles' rest where either does not fit
        image = bordered(image, (0, down - height % down), (0, across - width % across), "reflect")
    tile_h, tile_w = image.shape[2] // down, image.shape[3] // across
    tiles = image.view(n, down, tile_h, across, tile_w).transpose(2, 3).reshape(n * down * across, -1)
    tables = _clahe_tables(tiles, limit).view(n, down * across, 256)
    ys = _tile_places(height, tile_h, down, image.device)
    xs = _tile_places(width, tile_w, across, image.device)
    rows = []
    for upper, weight_y in ((ys[0], 1 - ys[2]), (ys[1], ys[2])):
        looked_up = [_looked_up(images_NCHW, tables, upper[:, None] * across + column) for column in (xs[0], xs[1])]
        rows.append((looked_up[0] * (1 - xs[2]) + looked_up[1] * xs[2]) * weight_y[:, None])
    return to_bytes(rows[0] + rows[1])


def _clahe_tables(tiles_TP: Tensor, limit: float) -> Tensor:
    """Tables [T, 256] of tiles [T, P]: what a bin holds beyond the limit is shared among all."""
    n_pixels = tiles_TP.shape[1]
    offsets = torch.arange(len(tiles_TP), device=tiles_TP.device)[:, None] * 256
    counts = torch.bincount((tiles_TP + offsets).reshape(-1), minlength=len(tiles_TP) * 256).view(-1, 256)
    if limit > 0:
        most = max(int(limit * n_pixels / 256), 1)
        excess = (counts - most).clamp_(min=0).sum(1, keepdim=True)
        residual = excess % 256
        counts = counts.clamp(max=most) + excess // 256
        step = (256 // residual.clamp(min=1)).clamp(min=1)
        places = torch.arange(256, device=counts.device)
        counts = counts + ((places % step == 0) & (places // step < residual)).long()
    return to_bytes(counts.cumsum(1) * float(np.float32(255 / n_pixels)))


def _tile_places(size: int, tile: int, n_tiles: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The tiles before and after each pixel of an axis, and the weight of the latter."""
    places = torch.arange(size, device=device, dtype=torch.float32) / tile - 0.5
    before = places.floor()
    first, second = before.long().clamp(0, n_tiles - 1), (before.long() + 1).clamp(0, n_tiles - 1)
    return first, second, places - before


def _looked_up(images_N1HW: Tensor, tables_NTV: Tensor, tiles_HW: Tensor) -> Tensor:
    n, _, height, width = images_N1HW.shape
    places = tiles_HW[None] * 256 + images_N1HW[:, 0]
    flat = tables_NTV.reshape(n, -1)
    return flat.gather(1, places.reshape(n, -1)).view(n, 1, height, width).float()


#: tan(22.5 degrees) in 15 bits, as OpenCV divides directions.
_TAN = 13573


def canny(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.Canny` in whole numbers: Kornia's `canny` has no sum of absolute gradients, and none for each channel.

    Raises:
        NotBoundedError: Edges are too long to be followed in `MAX_ROUNDS` rounds.
    """
    low, high = (int(np.floor(value)) for value in sorted(values[0]))
    n, _, height, width = images_NCHW.shape
    padded = bordered(images_NCHW, (1, 1), (1, 1), "edge").float()
    gradients = filters.spatial_gradient(padded, normalized=False)[..., 1:-1, 1:-1].round_().int()
    size = gradients.abs().sum(2)
    # Of the channel whose gradient is the largest, the first of several.
    place = size.argmax(1, keepdim=True)
    magnitude = size.gather(1, place)
    dx, dy = gradients.gather(1, place[:, :, None].expand(n, 1, 2, height, width)).unbind(2)
    around = torch.nn.functional.pad(magnitude, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = dx.abs().long() * _TAN, dy.abs().long() << 15
    is_flat, is_steep = y < x, y > x + (dx.abs().long() << 16)
    is_falling = (dx ^ dy) < 0
    across = (magnitude > at(0, -1)) & (magnitude >= at(0, 1))
    along = (magnitude > at(-1, 0)) & (magnitude >= at(1, 0))
    falling = (magnitude > at(-1, 1)) & (magnitude > at(1, -1))
    rising = (magnitude > at(-1, -1)) & (magnitude > at(1, 1))
    oblique = torch.where(is_falling, falling, rising)
    is_ridge = torch.where(is_flat, across, torch.where(is_steep, along, oblique)) & (magnitude > low)
    return _connected(is_ridge & (magnitude > high), is_ridge).to(torch.uint8) * 255


def _connected(strong: Tensor, weak: Tensor) -> Tensor:
    """Weak pixels that touch strong ones, or others that do."""
    for _ in range(0, MAX_ROUNDS, _ROUNDS_AT_ONCE):
        before = strong
        for _ in range(_ROUNDS_AT_ONCE):
            strong = (torch.nn.functional.max_pool2d(strong.float(), 3, 1, 1) > 0) & weak
        if torch.equal(before, strong):
            return strong
    raise NotBoundedError(f"edges of more than {MAX_ROUNDS} pixels")
