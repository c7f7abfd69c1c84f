"""Whether a result still shows what its frame says it shows.

A frame says where each pixel of a result lies in the question's image, but not what is left to see there: a page turned
upright and reduced to 2 x 2 pixels has a perfect frame. So a reward asks here before it pays a turn or a crop.

Pixels that were only moved are compared exactly. Everything else is judged by its edges: those of the result and those
of the question's image in the same place, in a grid of at most `_GRID` pixels, must lie in the same places. Contrast,
brightness, sharpness, grayscale, inversion, thresholds and drawings keep edges where they are; thumbnails, strong
blurs and flat colours do not. An operation that raises faint noise above the picture is taken for a loss.
"""

from __future__ import annotations

from math import hypot
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.effects.pixels import same_pixels
from sandbox.geometry import Affine, inverse, orient

#: Longest side of the grid in which edges are compared, in pixels.
_GRID = 128
#: Correlation of the edges that a result must keep.
_ENOUGH = 0.75
#: Spread of the edges, in levels, below which there is nothing to see.
_FLAT = 0.1
#: Range of levels of an image in which nothing can be seen.
_BLANK = 2


def keeps_detail(result: Image.Image, root: Image.Image, frame: Affine | None, orientation: str | None) -> bool:
    """Whether a result shows the part of `root` that its frame names; a flat part has nothing that can be lost.

    Args:
        result: RGB.
        root: The image that it descends from, RGB.
        frame: Pixels of the result to those of `root`; None: unknown.
        orientation: Net element of the eight from `root` to the result; None: unknown.
    """
    if frame is None:
        return False
    if orientation is not None and _is_moved(result, root, frame, orientation):
        return True
    shown, expected = _in_one_grid(result, frame, root)
    return _edges(expected, "RGB").std() < _FLAT or _likeness(shown, expected) >= _ENOUGH


def shows_turn(result: Image.Image, root: Image.Image, frame: Affine | None, orientation: str | None) -> bool:
    """Whether one can see in a result how it was turned: not if it is flat, or looks the same turned back.

    The whole root, turned to the pixel, shows all there is to see, whatever it looks like. See `keeps_detail`.
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
    """Whether the result is a part of the root in this orientation, to the pixel."""
    box = frame.box((0, 0, *result.size))
    whole = tuple(round(side) for side in box)
    is_inside = 0 <= whole[0] < whole[2] <= root.width and 0 <= whole[1] < whole[3] <= root.height
    if not is_inside or whole != box:
        return False
    return same_pixels(orient(root.crop(whole), orientation), result)  # type: ignore[arg-type]


def _in_one_grid(image: Image.Image, frame: Affine, root: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A result and what it should show, in one size."""
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
    """Correlation of the edges of colours or, if that is more, of brightness: a gray result keeps only those."""
    return max(_correlation(_edges(shown, mode), _edges(expected, mode)) for mode in ("RGB", "L"))


def _edges(image: Image.Image, mode: str) -> Any:
    """Strength of the edges [H, W] in a mode, in levels per pixel, over all channels."""
    pixels = np.asarray(image.convert(mode), np.float32).reshape(image.height, image.width, -1)
    across, down = cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1)
    strength = (np.abs(across) + np.abs(down)).reshape(pixels.shape).sum(2)
    return cv2.blur(strength, (3, 3)) / 8


def _correlation(one: Any, other: Any) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / size if size > 0 else 0.0
