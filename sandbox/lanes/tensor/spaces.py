"""OpenCV's colour conversions of bytes by Kornia, whose values are in [0, 1], radians, or CIE units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from kornia import color
from torch import Tensor

from sandbox.lanes.tensor.filters import to_bytes
from sandbox.operations.operation import Values

#: OpenCV's hue counts degrees by two: 180 of them are a turn.
_HUE = 90 / math.pi


def _from_hsv(values: Tensor) -> Tensor:
    hue, saturation, value = values.unbind(1)
    rgb: Tensor = color.hsv_to_rgb(torch.stack([hue / _HUE, saturation / 255, value / 255], 1))
    return rgb


def _to_hsv(values: Tensor) -> Tensor:
    hue, saturation, value = color.rgb_to_hsv(values / 255).unbind(1)
    return torch.stack([(hue * _HUE).round() % 180, saturation * 255, value * 255], 1)


def _from_hls(values: Tensor) -> Tensor:
    hue, lightness, saturation = values.unbind(1)
    rgb: Tensor = color.hls_to_rgb(torch.stack([hue / _HUE, lightness / 255, saturation / 255], 1))
    return rgb


def _to_hls(values: Tensor) -> Tensor:
    hue, lightness, saturation = color.rgb_to_hls(values / 255).unbind(1)
    return torch.stack([hue * _HUE, lightness * 255, saturation * 255], 1)


def _from_lab(values: Tensor) -> Tensor:
    """By way of XYZ: Kornia's `lab_to_rgb` raises a negative z to 0, but neither x nor y."""
    lightness, green_red, blue_yellow = values.unbind(1)
    y = (lightness / 2.55 + 16) / 116
    roots = torch.stack([y + (green_red - 128) / 500, y, y - (blue_yellow - 128) / 200], 1)
    xyz = torch.where(roots > 6 / 29, roots**3, (roots - 4 / 29) / 7.787)
    white = torch.tensor([0.950456, 1.0, 1.088754], device=values.device)[:, None, None]
    rgb: Tensor = color.linear_rgb_to_rgb(color.xyz_to_rgb(xyz * white).clamp_(0, 1))
    return rgb


def _to_lab(values: Tensor) -> Tensor:
    lightness, green_red, blue_yellow = color.rgb_to_lab(values / 255).unbind(1)
    return torch.stack([lightness * 2.55, green_red + 128, blue_yellow + 128], 1)


def _from_ycrcb(values: Tensor) -> Tensor:
    """OpenCV's differences are centered on 128, Kornia's on half of 255."""
    y, cr, cb = values.unbind(1)
    rgb: Tensor = color.ycbcr_to_rgb(torch.stack([y, cb - 0.5, cr - 0.5], 1) / 255)
    return rgb


def _to_ycrcb(values: Tensor) -> Tensor:
    y, cb, cr = (color.rgb_to_ycbcr(values / 255) * 255).unbind(1)
    return torch.stack([y, cr + 0.5, cb + 0.5], 1)


def _from_yuv(values: Tensor) -> Tensor:
    y, u, v = values.unbind(1)
    rgb: Tensor = color.yuv_to_rgb(torch.stack([y, u - 128, v - 128], 1) / 255)
    return rgb


def _to_yuv(values: Tensor) -> Tensor:
    y, u, v = (color.rgb_to_yuv(values / 255) * 255).unbind(1)
    return torch.stack([y, u + 128, v + 128], 1)


_INTO = {"HSV": _to_hsv, "HLS": _to_hls, "LAB": _to_lab, "YCrCb": _to_ycrcb, "YUV": _to_yuv}
_OUT_OF = {"HSV": _from_hsv, "HLS": _from_hls, "LAB": _from_lab, "YCrCb": _from_ycrcb, "YUV": _from_yuv}


def conversion(name: str) -> Callable[[Tensor, Sequence[Values]], Tensor]:
    """`cv2.cvtColor` by the name of a code, "RGB2HSV" or "LAB2BGR"."""
    before, _, after = name.partition("2")

    def call(images_NCHW: Tensor, _: Sequence[Values]) -> Tensor:
        values = images_NCHW.float()
        if after in _INTO:
            return to_bytes(_INTO[after](values.flip(1) if before == "BGR" else values))
        rgb = to_bytes(_OUT_OF[before](values) * 255)
        return rgb.flip(1) if after == "BGR" else rgb

    return call
