"""Operations on single values, exact: tables (most by the library's own call), blends, histograms, gray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from kornia import enhance
from PIL import Image
from torch import Tensor

from sandbox.operations.operation import Values
from sandbox.operations.table import OPERATIONS


def apply_tables(images_NCHW: Tensor, tables_NCV: Tensor) -> Tensor:
    """Replace every value by its entry: uint8 tables [N, C or 1, 256]."""
    n, channels = images_NCHW.shape[:2]
    entries = tables_NCV.to(images_NCHW.device).expand(n, channels, 256).reshape(-1)
    offsets = torch.arange(n * channels, dtype=torch.int32, device=images_NCHW.device).view(n, channels, 1, 1) * 256
    places = images_NCHW.to(torch.int32).add_(offsets)
    return entries.index_select(0, places.reshape(-1)).view(images_NCHW.shape)


def by_library(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """An operation on single values, by the table that the library's own call makes of the values 0 to 255."""
    ramp = np.arange(256, dtype=np.uint8)[None]

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        tables = [np.asarray(OPERATIONS[name].call(Image.fromarray(ramp), each))[0] for each in values]
        return apply_tables(images_NCHW, torch.from_numpy(np.stack(tables))[:, None])

    return call


def look_up(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`cv2.LUT`."""
    return apply_tables(images_NCHW, torch.from_numpy(np.stack([table.array for (table,) in values]))[:, None])


def pick_channel(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.getchannel`."""
    return torch.stack([image[channel, None] for image, (channel,) in zip(images_NCHW, values, strict=True)])


def invert(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`ImageOps.invert`, `cv2.bitwise_not`."""
    return images_NCHW.bitwise_not()


def posterize(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageOps.posterize`."""
    bits = torch.tensor([bits for (bits,) in values], device=images_NCHW.device)
    fewer: Tensor = enhance.posterize(images_NCHW.float() / 255, bits)
    return (fewer * 255).round().to(torch.uint8)


def _each(images_NCHW: Tensor, numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
    """One number for each image, [N, 1, 1, 1]."""
    return torch.tensor(list(numbers), dtype=dtype, device=images_NCHW.device)[:, None, None, None]


def gray_of(images_NCHW: Tensor, weights: tuple[int, int, int], bits: int) -> Tensor:
    """Weighted sums [N, 1, H, W] of three channels in fixed point, rounded half up."""
    red, green, blue = (images_NCHW[:, channel : channel + 1].to(torch.int32) for channel in range(3))
    total = red * weights[0] + green * weights[1] + blue * weights[2] + (1 << (bits - 1))
    return (total >> bits).to(torch.uint8)


def luma(images_NCHW: Tensor) -> Tensor:
    """Pillow's mode L (ITU-R 601-2, 16 bits), [N, 1, H, W]."""
    return images_NCHW if images_NCHW.shape[1] == 1 else gray_of(images_NCHW, (19595, 38470, 7471), 16)


def convert(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`Image.convert` between RGB and L."""
    if values[0][0] == "L":
        return luma(images_NCHW)
    return images_NCHW if images_NCHW.shape[1] == 3 else images_NCHW.repeat(1, 3, 1, 1)


def blend(degenerate_NCHW: Tensor, images_NCHW: Tensor, factors: Sequence[Values]) -> Tensor:
    """`Image.blend` in float32 as in C, cut off below the point; factors beyond [0, 1] go past the image."""
    alpha = _each(images_NCHW, [factor for (factor,) in factors], torch.float32)
    base = degenerate_NCHW.float()
    return (base + alpha * (images_NCHW.float() - base)).clamp_(0, 255).to(torch.uint8)


def color(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageEnhance.Color`."""
    return blend(luma(images_NCHW), images_NCHW, values)


def contrast(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    """`ImageEnhance.Contrast`: away from the mean luma of the whole image."""
    gray = luma(images_NCHW)
    sums = gray.sum((1, 2, 3), dtype=torch.int64).tolist()
    n_pixels = gray[0].numel()
    means = _each(images_NCHW, [int(total / n_pixels + 0.5) for total in sums], torch.uint8)
    return blend(means.expand_as(images_NCHW), images_NCHW, values)


def histograms(images_NCHW: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count of each value in each channel, [N, C, 256]."""
    n, channels = images_NCHW.shape[:2]
    offsets = torch.arange(n * channels, dtype=torch.int32, device=images_NCHW.device)[:, None] * 256
    places = images_NCHW.reshape(n * channels, -1).to(torch.int32) + offsets
    counts = torch.bincount(places.reshape(-1), minlength=n * channels * 256)
    array: np.ndarray[Any, np.dtype[np.int64]] = counts.view(n, channels, 256).cpu().numpy()
    return array


def _with_tables(images_NCHW: Tensor, tables: Sequence[Any]) -> Tensor:
    return apply_tables(images_NCHW, torch.from_numpy(np.array(tables, dtype=np.uint8)))


class _Counted(Image.Image):
    """All 256 values, which says that they are there `counts_CV` times: a library call makes its table of it."""

    def __init__(self, counts_CV: Any, gray_1V: Any) -> None:
        super().__init__()
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        self.im = Image.merge("RGB", [ramp] * 3).im if len(counts_CV) == 3 else ramp.im
        self._mode, self._size = self.im.mode, self.im.size
        self._counts, self._gray = counts_CV, gray_1V

    def histogram(self, mask: Any = None, extrema: Any = None) -> list[int]:
        counts: list[int] = self._counts.reshape(-1).tolist()
        return counts

    def convert(self, mode: str | None = None, *_: Any, **__: Any) -> Image.Image:
        return _Counted(self._gray, self._gray)


def by_histogram(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """`ImageOps.autocontrast` or `equalize`, by the table that Pillow's own call makes of the histogram."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        counts_NCV = histograms(images_NCHW)
        gray_N1V = histograms(luma(images_NCHW)) if name == "ImageOps.autocontrast" else counts_NCV
        tables = [
            np.asarray(OPERATIONS[name].call(_Counted(counts, gray), each)).reshape(256, -1).T
            for counts, gray, each in zip(counts_NCV, gray_N1V, values, strict=True)
        ]
        return _with_tables(images_NCHW, tables)

    return call


def equalize_hist(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
    """`cv2.equalizeHist`, of one channel."""
    tables = []
    for (counts,) in histograms(images_NCHW):
        first = int(np.flatnonzero(counts)[0])
        total = int(counts.sum())
        if counts[first] == total:
            tables.append([np.full(256, first, dtype=np.uint8)])
            continue
        scale = np.float32(255.0) / np.float32(total - counts[first])
        sums = np.cumsum(counts) - np.cumsum(counts)[first]
        table = np.rint(np.maximum(sums, 0).astype(np.float32) * scale)
        tables.append([np.clip(table, 0, 255).astype(np.uint8)])
    return _with_tables(images_NCHW, tables)


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
