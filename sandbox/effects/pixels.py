"""Pixels as numbers, and the eight orientations as views, for comparing images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageChops

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
#: (H, W): one number per pixel; its highest byte has no meaning.
Numbers = np.ndarray[Any, np.dtype[np.uint32]]

#: Mask of the bytes of a number that have a meaning.
COLOR = np.uint32(0xFFFFFF)


def numbers(pixels: Pixels) -> Numbers:
    """One number per pixel of uint8 (H, W, 3) or (H, W, 4); no copy if the four bytes of a pixel are adjacent."""
    if pixels.shape[-1] == 4 and pixels.flags.c_contiguous:
        return pixels.view("<u4")[..., 0]
    four = np.zeros((*pixels.shape[:2], 4), np.uint8)
    four[..., :3] = pixels[..., :3]
    return four.view("<u4")[..., 0]


def colors(shown: Numbers) -> Pixels:
    """The colors, uint8 (..., 3), of contiguous numbers."""
    four: Pixels = np.ascontiguousarray(shown).view(np.uint8).reshape(*shown.shape, 4)
    return four[..., :3]


def oriented(array: Any, orientation: str) -> Any:
    """A view of an array, (H, W) or (H, W, C), in one of the eight orientations."""
    views: dict[str, Callable[[Any], Any]] = {
        "identity": lambda a: a,
        "rotate_90": lambda a: a.swapaxes(0, 1)[::-1],
        "rotate_180": lambda a: a[::-1, ::-1],
        "rotate_270": lambda a: a.swapaxes(0, 1)[:, ::-1],
        "flip_horizontal": lambda a: a[:, ::-1],
        "flip_vertical": lambda a: a[::-1],
        "transpose": lambda a: a.swapaxes(0, 1),
        "transverse": lambda a: a[::-1, ::-1].swapaxes(0, 1),
    }
    return views[orientation](array)


class OutOfBudgetError(Exception):
    """A search would take more work than one result is worth."""


class SearchBudget:
    """The number of pixels that a search may still read, at about 2 ns each."""

    def __init__(self, n_pixels: int) -> None:
        self._left = n_pixels

    def spend(self, n_pixels: int) -> None:
        """Count pixels as read.

        Raises:
            OutOfBudgetError: Fewer pixels are left.
        """
        self._left -= n_pixels
        if self._left < 0:
            raise OutOfBudgetError


def same_pixels(one: Image.Image, other: Image.Image | None) -> bool:
    """Whether two images look the same: equal size and equal RGB values."""
    if one is other:
        return True
    if other is None or one.size != other.size:
        return False
    width, height = one.size
    middle = [(width // 3, height // 2), (width // 2, height // 3), (width // 5, height // 4)]
    if one.mode == other.mode and min(width, height) and any(one.getpixel(at) != other.getpixel(at) for at in middle):
        return False  # most images that differ are found here at once
    row = (0, height // 2, width, height // 2 + 1)
    return _is_equal(one.crop(row), other.crop(row)) and _is_equal(one, other)


def _is_equal(one: Image.Image, other: Image.Image) -> bool:
    in_rgb = [image if image.mode == "RGB" else image.convert("RGB") for image in (one, other)]
    return ImageChops.difference(*in_rgb).getbbox() is None
