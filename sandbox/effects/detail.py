"""Decides whether a result still shows the part of the image that its frame names.

A frame says where each pixel of a result lies in the question's image, but not how much of it is still visible: a page
turned upright and reduced to 2 x 2 pixels has a perfect frame. So a reward asks here before it pays for a turn or a
crop.

Pixels that were only moved are compared exactly. Every other result is judged by its edges: in a grid of at most
`_GRID` pixels, its edges must lie where the question's image has them. Contrast, brightness, sharpness, grayscale,
inversion, thresholds and drawings keep edges in place; thumbnails, strong blurs and flat colors do not. An operation
that raises faint noise above the picture counts as a loss.
"""

from __future__ import annotations

from math import hypot
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.effects.pixels import same_pixels
from sandbox.geometry import Affine, inverse, orient

#: Longest side in pixels of the grid in which edges are compared.
_GRID = 128
#: Smallest correlation of the edges at which a result still shows its part.
_ENOUGH = 0.75
#: Spread of the edges, in levels, below which nothing is visible.
_FLAT = 0.1
#: Range of levels up to which an image counts as blank.
_BLANK = 2


def keeps_detail(result: Image.Image, root: Image.Image, frame: Affine | None, orientation: str | None) -> bool:
    """Whether a result shows the part of `root` that its frame names; a flat part has no detail to lose.

    Args:
        result: The RGB result.
        root: The RGB image that it was made from.
        frame: Maps pixels of the result to those of `root`; None if unknown.
        orientation: Net orientation (one of eight) from `root` to the result; None if unknown.
    """
    if frame is None:
        return False
    if orientation is not None and _is_moved(result, root, frame, orientation):
        return True
    shown, expected = _in_one_grid(result, frame, root)
    return _edges(expected, "RGB").std() < _FLAT or _likeness(shown, expected) >= _ENOUGH


def shows_turn(result: Image.Image, root: Image.Image, frame: Affine | None, orientation: str | None) -> bool:
    """Whether a result shows how it was turned: not if it is flat, or looks the same when turned back.

    An exact turn of the whole root always shows it, whatever the root looks like. See `keeps_detail`.
    """
    if frame is None or orientation is None:
        return False
    is_moved = _is_moved(result, root, frame, orientation)
    if is_moved and result.width * result.height == root.width * root.height:
        return True
    is_blank = all(high - low <= _BLANK for low, high in result.convert("RGB").getextrema())  # type: ignore[misc]
    if is_blank or same_pixels(orient(result, inverse(orientation)), result):
        return False
    if is_moved:
        return True
    shown, expected = _in_one_grid(result, frame, root)
    return _edges(expected, "RGB").std() >= _FLAT and _likeness(shown, expected) >= _ENOUGH


def _is_moved(result: Image.Image, root: Image.Image, frame: Affine, orientation: str) -> bool:
    """Whether the result is exactly a part of the root in this orientation."""
    box = frame.box((0, 0, *result.size))
    whole = tuple(round(side) for side in box)
    is_inside = 0 <= whole[0] < whole[2] <= root.width and 0 <= whole[1] < whole[3] <= root.height
    if not is_inside or whole != box:
        return False
    return same_pixels(orient(root.crop(whole), orientation), result)  # type: ignore[arg-type]


def _in_one_grid(image: Image.Image, frame: Affine, root: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A result and the content that it should show, both at one size."""
    width, height = image.size
    full = max(1, round(width * hypot(frame.a, frame.d))), max(1, round(height * hypot(frame.b, frame.e)))
    factor = -(-max(full) // _GRID)
    grid = max(1, round(full[0] / factor)), max(1, round(full[1] / factor))
    of_grid = Affine(a=width / grid[0], e=height / grid[1]).then(frame)
    reduced = root.reduce(factor) if factor > 1 else root
    place = of_grid.then(Affine(a=1 / factor, e=1 / factor))
    expected = reduced.transform(
        grid, Image.Transform.AFFINE, (place.a, place.b, place.c, place.d, place.e, place.f), Image.Resampling.BILINEAR
    )
    is_larger = width > grid[0] and height > grid[1]
    shown = image.resize(grid, Image.Resampling.BOX if is_larger else Image.Resampling.BILINEAR)
    return shown, expected


def _likeness(shown: Image.Image, expected: Image.Image) -> float:
    """The larger correlation of the edges, of colors or of brightness: a gray result keeps only those of brightness."""
    return max(_correlation(_edges(shown, mode), _edges(expected, mode)) for mode in ("RGB", "L"))


def _edges(image: Image.Image, mode: str) -> Any:
    """Strength of the edges [H, W] of the image in a mode, in levels per pixel, summed over channels."""
    pixels = np.asarray(image.convert(mode), np.float32).reshape(image.height, image.width, -1)
    across, down = cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1)
    strength = (np.abs(across) + np.abs(down)).reshape(pixels.shape).sum(2)
    return cv2.blur(strength, (3, 3)) / 8


def _correlation(one: Any, other: Any) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / size if size > 0 else 0.0
