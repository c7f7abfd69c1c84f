"""What confined code did to an image, found from the pixels alone: what it said or looked like counts for nothing.

Exact matches first (the eight orientations, cut-outs of an orientation), then an orientation of the whole image that
was resized or recoloured. Where two answers fit, or none does, the answer is None. Orientations of large images are
compared at many fixed places instead of everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.geometry import ORIENTATIONS, Affine, Size, orientation_frame

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

#: Side of the small gray images that are compared, in pixels.
_SIDE = 48
#: Correlation of those images that an orientation must reach, and its lead over the next.
_ENOUGH, _LEAD = 0.9, 0.15
#: Pixels up to which images are compared everywhere, and the places, in units of the sides, where larger ones are.
_MAX_EXACT = 1 << 16
_PLACES = np.random.default_rng(20251203).random((8192, 2))
#: Places in an image that may begin like a cut-out before the search gives up.
_MAX_CANDIDATES = 64
#: A row of a cut-out with fewer different pixels is too flat to be looked for.
_MIN_DISTINCT = 4


@dataclass(frozen=True)
class Effects:
    """Tools, net orientation and frame, as in an `Observation`."""

    tools: tuple[str, ...] = ()
    orientation: str | None = None
    frame: Affine | None = None


def find_effects(before: Pixels, after: Pixels) -> Effects:
    """Compare the pixels of an image and of a result, both uint8 of shape (H, W, 3)."""
    if _is_equal(before, after):
        return Effects((), "identity", Affine())
    exact = [name for name in ORIENTATIONS[1:] if _is_equal(oriented(before, name), after)]
    if exact:
        return _turned(exact, (before.shape[1], before.shape[0]))
    if after.shape[0] <= max(before.shape[:2]) and after.shape[1] <= max(before.shape[:2]):
        found = _find_cut_out(before, after)
        if found is not None:
            return found
    return _find_changed(before, after)


def oriented(pixels: Pixels, orientation: str) -> Pixels:
    """A view of (H, W, C) pixels in one of the eight orientations."""
    views: dict[str, Callable[[Pixels], Pixels]] = {
        "identity": lambda a: a,
        "rotate_90": lambda a: np.rot90(a),
        "rotate_180": lambda a: a[::-1, ::-1],
        "rotate_270": lambda a: np.rot90(a, -1),
        "flip_horizontal": lambda a: a[:, ::-1],
        "flip_vertical": lambda a: a[::-1],
        "transpose": lambda a: a.swapaxes(0, 1),
        "transverse": lambda a: a[::-1, ::-1].swapaxes(0, 1),
    }
    return views[orientation](pixels)


def _is_equal(one: Pixels, other: Pixels) -> bool:
    if one.shape != other.shape:
        return False
    few = (_PLACES[:16] * one.shape[:2]).astype(np.intp).T
    if (one[few[0], few[1]] != other[few[0], few[1]]).any():
        return False
    if one.shape[0] * one.shape[1] <= _MAX_EXACT:
        return bool(np.array_equal(one, other))
    ys, xs = (_PLACES * one.shape[:2]).astype(np.intp).T
    return bool((one[ys, xs] == other[ys, xs]).all())


def _turned(names: list[str], size: Size) -> Effects:
    """One orientation is an answer; of a symmetric image several fit, and which was done cannot be seen."""
    if len(names) > 1:
        return Effects()
    return Effects((names[0],), names[0], orientation_frame(names[0], size))


def _find_cut_out(before: Pixels, after: Pixels) -> Effects | None:
    """The result as a part of the image in any orientation; None where it is none, no effects where it is several."""
    ways: list[Effects] = []
    for name in ORIENTATIONS:
        turned = oriented(before, name)
        height, width = after.shape[:2]
        if height > turned.shape[0] or width > turned.shape[1]:
            continue
        places = _places(np.ascontiguousarray(turned), after)
        if places is None:
            return Effects()
        for x, y in places:
            frame = Affine(c=x, f=y).then(orientation_frame(name, (before.shape[1], before.shape[0])))
            tools = ("crop",) if name == "identity" else (name, "crop")
            ways.append(Effects(tools, name, frame))
        if ways and name == "identity":
            break  # a plain crop explains it
    if not ways:
        return None
    return ways[0] if len(ways) == 1 else Effects()


def _places(image: Pixels, part: Pixels) -> list[tuple[int, int]] | None:
    """Where `part` lies in `image`, as (x, y); None where it is too flat, or begins in too many places, to tell."""
    height, width = part.shape[:2]
    distinct = [
        len(np.unique(part[y].view("V3").ravel() if part[y].flags.c_contiguous else part[y], axis=0))
        for y in _sampled(height)
    ]
    best = int(np.argmax(distinct))
    if distinct[best] < min(_MIN_DISTINCT, width):
        return None
    row_index = _sampled(height)[best]
    needle = part[row_index].tobytes()
    stack, stride = image.tobytes(), image.shape[1] * 3
    places: list[tuple[int, int]] = []
    n_candidates, position = 0, stack.find(needle)
    while position >= 0:
        y, offset = divmod(position, stride)
        x, y = offset // 3, y - row_index
        if offset % 3 == 0 and x + width <= image.shape[1] and 0 <= y <= image.shape[0] - height:
            n_candidates += 1
            if n_candidates > _MAX_CANDIDATES:
                return None
            if np.array_equal(image[y : y + height, x : x + width], part):
                places.append((x, y))
        position = stack.find(needle, position + 1)
    return places


def _sampled(height: int) -> list[int]:
    return sorted(set(np.linspace(0, height - 1, 9).astype(int).tolist()))


def _find_changed(before: Pixels, after: Pixels) -> Effects:
    """The whole image, in some orientation, resized or with other colours."""
    small = _standardised(after)
    if small is None:
        return Effects()
    scores: dict[str, float] = {}
    for name in ORIENTATIONS:
        turned = _standardised(oriented(before, name))
        if turned is None:
            return Effects()
        scores[name] = float((turned * small).mean())
    best, second = sorted(scores, key=lambda name: abs(scores[name]), reverse=True)[:2]
    if abs(scores[best]) < _ENOUGH or abs(scores[best]) - abs(scores[second]) < _LEAD:
        return Effects()
    height, width = after.shape[:2]
    turned_height, turned_width = oriented(before, best).shape[:2]
    tools = [best] if best != "identity" else []
    if (width, height) != (turned_width, turned_height):
        tools.append("resize")
    tools += _colour_tools(oriented(before, best), after)
    scale = Affine(a=turned_width / width, e=turned_height / height)
    frame = scale.then(orientation_frame(best, (before.shape[1], before.shape[0])))
    return Effects(tuple(tools), best, frame)


def _standardised(pixels: Pixels) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A small gray version with mean 0 and variance 1; None where it is flat."""
    step = max(1, min(pixels.shape[:2]) // (4 * _SIDE))
    small = cv2.resize(np.ascontiguousarray(pixels[::step, ::step]), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    gray = small.astype(np.float32).mean(axis=2)
    spread = float(gray.std())
    return None if spread < 1.0 else (gray - gray.mean()) / spread


def _colour_tools(before: Pixels, after: Pixels) -> list[str]:
    """Which colour operation is in the pixels; a plain name where it is recognised, else "color"."""
    if before.shape != after.shape:
        size = (after.shape[1], after.shape[0])
        before = np.asarray(Image.fromarray(np.ascontiguousarray(before)).resize(size, Image.Resampling.BICUBIC))
        tolerance = 12.0
    else:
        tolerance = 0.0
    difference = np.abs(before.astype(np.int16) - after).mean()
    if difference <= tolerance:
        return []
    if np.abs(255 - before.astype(np.int16) - after).mean() <= tolerance:
        return ["invert"]
    is_gray = bool((after[..., 0] == after[..., 1]).all() and (after[..., 1] == after[..., 2]).all())
    was_gray = bool((before[..., 0] == before[..., 1]).all() and (before[..., 1] == before[..., 2]).all())
    return ["grayscale"] if is_gray and not was_gray else ["color"]
