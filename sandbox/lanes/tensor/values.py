"""Operations on single pixels. Those on values are exact, by tables from the library's own call; colors use Kornia."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from kornia import color
from PIL import Image
from torch import Tensor

from sandbox.lanes.tensor.kinds import Call, operation
from sandbox.operations.opencv import SPACES
from sandbox.operations.operation import Values
from sandbox.operations.table import OPERATIONS

_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def to_bytes(values_NCHW: Tensor) -> Tensor:
    """Round half to even and clamp, as OpenCV saturates."""
    return values_NCHW.round().clamp_(0, 255).to(torch.uint8)


def _looked_up(images_NCHW: Tensor, tables: Sequence[Any]) -> Tensor:
    """Replace every value by its entry in the image's table, uint8 [C or 1, 256]."""
    n, channels = images_NCHW.shape[:2]
    entries = torch.from_numpy(np.stack(tables)).to(images_NCHW.device).expand(n, channels, 256).reshape(-1)
    return entries.index_select(0, _places(images_NCHW)).view(images_NCHW.shape)


def _places(images_NCHW: Tensor) -> Tensor:
    """Flat index of each value into the 256 entries of its own image and channel."""
    n, channels = images_NCHW.shape[:2]
    offsets = torch.arange(n * channels, dtype=torch.int32, device=images_NCHW.device).view(n, channels, 1, 1) * 256
    return images_NCHW.to(torch.int32).add_(offsets).reshape(-1)


def _histograms(images_NCHW: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count of each value in each channel, [N, C, 256]."""
    n, channels = images_NCHW.shape[:2]
    counts = torch.bincount(_places(images_NCHW), minlength=n * channels * 256)
    return np.asarray(counts.view(n, channels, 256).cpu())


def _by_ramp(name: str) -> Call:
    """An operation on values, with a table that the library makes from an image of all values."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        return _looked_up(images_NCHW, [np.asarray(OPERATIONS[name].call(_RAMP, each)) for each in values])

    return call


class _Counted(Image.Image):
    """An image of all 256 values that reports `counts_CV` as its histogram, so that a library call makes its table."""

    def __init__(self, counts_CV: Any, gray_1V: Any) -> None:
        super().__init__()
        self.im = Image.merge("RGB", [_RAMP] * 3).im if len(counts_CV) == 3 else _RAMP.im
        self._mode, self._size = self.im.mode, self.im.size
        self._counts, self._gray = counts_CV, gray_1V

    def histogram(self, mask: Any = None, extrema: Any = None) -> list[int]:
        counts: list[int] = self._counts.reshape(-1).tolist()
        return counts

    def convert(self, mode: str | None = None, *_: Any, **__: Any) -> Image.Image:
        return _Counted(self._gray, self._gray)


def _by_histogram(name: str) -> Call:
    """A Pillow operation on values that depends on the histogram."""

    def call(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
        counts_NCV, gray_N1V = _histograms(images_NCHW), _histograms(_luma(images_NCHW))
        tables = [
            np.asarray(OPERATIONS[name].call(_Counted(counts, gray), each)).reshape(256, -1).T
            for counts, gray, each in zip(counts_NCV, gray_N1V, values, strict=True)
        ]
        return _looked_up(images_NCHW, tables)

    return call


def _by_sorted_pixels(name: str) -> Call:
    """An OpenCV operation on gray images that counts the pixels itself, in any order; so they come sorted."""

    def call(images_N1HW: Tensor, values: Sequence[Values]) -> Tensor:
        tables = np.zeros((len(images_N1HW), 1, 256), np.uint8)
        for (table,), (counts,), each in zip(tables, _histograms(images_N1HW), values, strict=True):
            pixels = np.repeat(np.arange(256, dtype=np.uint8), counts)[None]
            table[pixels] = np.asarray(OPERATIONS[name].call(Image.fromarray(pixels), each))
        return _looked_up(images_N1HW, list(tables))

    return call


def blend_growth(values: Values) -> float:
    """Growth of a blend of an image with an average of its values."""
    return float(abs(values[0]) + abs(1 - values[0]))


for _name in ("ImageEnhance.Brightness", "cv2.convertScaleAbs"):
    operation(_name, is_per_image=True, growth=lambda values: abs(values[0]))(_by_ramp(_name))
for _name in ("ImageOps.posterize", "ImageOps.solarize", "cv2.LUT"):
    operation(_name, is_per_image=True)(_by_ramp(_name))
operation("cv2.threshold", is_per_image=True, refuses=lambda values, _: values[2] >= cv2.THRESH_OTSU)(
    _by_ramp("cv2.threshold")
)
operation("cv2.threshold", is_per_image=True, refuses=lambda _, state: state.mode != "L", reason="Otsu, of colors")(
    _by_sorted_pixels("cv2.threshold")
)
operation("cv2.equalizeHist", is_per_image=True)(_by_sorted_pixels("cv2.equalizeHist"))
for _name in ("ImageOps.autocontrast", "ImageOps.equalize"):
    operation(_name, is_per_image=True)(_by_histogram(_name))
operation("ImageEnhance.Contrast", is_per_image=True, growth=blend_growth)(_by_histogram("ImageEnhance.Contrast"))


@operation("Image.getchannel", is_per_image=True, growth=1)
def _pick_channel(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return torch.stack([image[channel, None] for image, (channel,) in zip(images_NCHW, values, strict=True)])


def _by(module: Any, function: str) -> Call:
    """A function of the images alone, looked up when it is called because other versions may lack it."""
    return lambda images_NCHW, _: getattr(module, function)(images_NCHW)


for _name, _module, _function in (
    ("ImageOps.invert", torch, "bitwise_not"),
    ("cv2.bitwise_not", torch, "bitwise_not"),
    ("cv2.RGB2BGR", color, "rgb_to_bgr"),
    ("cv2.RGB2GRAY", color, "rgb_to_grayscale"),
    ("cv2.BGR2GRAY", color, "bgr_to_grayscale"),
    ("cv2.GRAY2RGB", color, "grayscale_to_rgb"),
):
    operation(_name, by=_module.__name__, is_per_image=True, growth=1)(_by(_module, _function))


def _luma(images_NCHW: Tensor) -> Tensor:
    """Pillow's mode L (ITU-R 601-2, 16 bits), [N, 1, H, W]: sums of whole numbers below 2**24, exact in float32."""
    if images_NCHW.shape[1] == 1:
        return images_NCHW
    weights = torch.tensor([19595.0, 38470.0, 7471.0], device=images_NCHW.device)
    sums: Tensor = color.rgb_to_grayscale(images_NCHW.float(), weights)
    return (sums / (1 << 16) + 0.5).to(torch.uint8)


@operation("Image.convert", by="kornia.color", growth=1)
def _convert(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return _luma(images_NCHW) if values[0][0] == "L" else images_NCHW.expand(-1, 3, -1, -1).contiguous()


def blend(degenerate_NCHW: Tensor, images_NCHW: Tensor, factors: Sequence[Values]) -> Tensor:
    """`Image.blend` in float32 as in C, with fractions cut off; factors outside [0, 1] extrapolate."""
    alpha = torch.tensor([factor for (factor,) in factors], dtype=torch.float32, device=images_NCHW.device)
    base = degenerate_NCHW.float()
    return (base + alpha[:, None, None, None] * (images_NCHW.float() - base)).clamp_(0, 255).to(torch.uint8)


@operation("ImageEnhance.Color", is_per_image=True, growth=blend_growth)
def _color(images_NCHW: Tensor, values: Sequence[Values]) -> Tensor:
    return blend(_luma(images_NCHW), images_NCHW, values)


class _Space(NamedTuple):
    """A color space of Kornia: OpenCV's values are `scale` times its channels in `order`, plus `shift`."""

    name: str
    scale: tuple[float, float, float]
    shift: tuple[float, float, float] = (0, 0, 0)
    order: tuple[int, int, int] = (0, 1, 2)


def _lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert via XYZ: Kornia's `lab_to_rgb` clamps a negative z to 0, but not x or y; OpenCV clamps none of them."""
    lightness, green_red, blue_yellow = lab.unbind(1)
    y = (lightness + 16) / 116
    roots = torch.stack([y + green_red / 500, y, y - blue_yellow / 200], 1)
    xyz = torch.where(roots > 6 / 29, roots**3, (roots - 4 / 29) / 7.787)
    white = torch.tensor([0.950456, 1.0, 1.088754], device=lab.device)[:, None, None]
    rgb: Tensor = color.linear_rgb_to_rgb(color.xyz_to_rgb(xyz * white).clamp_(0, 1))
    return rgb


#: OpenCV's hue counts in steps of two degrees: 180 of them are a full turn.
_HUE = 90 / math.pi
_SPACES = {
    "HSV": _Space("hsv", (_HUE, 255, 255)),
    "HLS": _Space("hls", (_HUE, 255, 255)),
    "LAB": _Space("lab", (2.55, 1, 1), (0, 128, 128)),
    "YUV": _Space("yuv", (255, 255, 255), (0, 128, 128)),
    # OpenCV's differences are centered on 128, Kornia's on half of 255.
    "YCrCb": _Space("ycbcr", (255, 255, 255), (0, 0.5, 0.5), (0, 2, 1)),
}


def _conversion(name: str) -> Call:
    """`cv2.cvtColor` for a code by name, such as "RGB2HSV" or "LAB2BGR"."""
    before, _, after = name.partition("2")
    space = _SPACES[after if after in _SPACES else before]

    def call(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
        values = images_NCHW.float()
        scale, shift = (torch.tensor(each, device=values.device)[:, None, None] for each in (space.scale, space.shift))
        if before in _SPACES:
            to_rgb = _lab_to_rgb if before == "LAB" else getattr(color, f"{space.name}_to_rgb")
            rgb = to_bytes(to_rgb(((values - shift) / scale)[:, space.order]) * 255)
            return rgb.flip(1) if after == "BGR" else rgb
        rgb = (values.flip(1) if before == "BGR" else values) / 255
        values = getattr(color, f"rgb_to_{space.name}")(rgb)[:, space.order] * scale + shift
        if after == "HSV":
            values[:, 0] = values[:, 0].round() % 180
        return to_bytes(values)

    return call


for _name in SPACES:
    operation(
        f"cv2.{_name}",
        by="kornia.color",
        is_per_image=True,
        most=2,
        # The hues 179 and 0 are neighbors: rounding between them makes a difference of 179.
        far=0.001 if _name.endswith(("HSV", "HLS")) else 0,
    )(_conversion(_name))
