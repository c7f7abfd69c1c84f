"""What confined code did to an image, found from the pixels alone: what it said or looked like counts for nothing.

Exact matches first (the eight orientations, cut-outs of an orientation, drawings on an orientation), then an
orientation of the whole image that was resized or recoloured. Where two answers fit, or none does, the answer is None.
Orientations of large images are compared at many fixed places instead of everywhere: what is changed in fewer than a
thousandth of their pixels may stay unseen, and is then not credited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np

from sandbox.effects.credit import NO_EFFECT, UNKNOWN, Effects
from sandbox.effects.crops import find_places
from sandbox.effects.drawings import MAX_SHARE, is_drawing
from sandbox.effects.pixels import COLOUR, Numbers, Pixels, colours, numbers, oriented
from sandbox.geometry import ORIENTATIONS, Affine, Size, orientation_frame

#: Side of the small gray images that are compared, in pixels.
_SIDE = 48
#: Correlation of those images that an orientation must reach, and its lead over the next.
_ENOUGH, _LEAD = 0.9, 0.15
#: Mean difference of small versions that a resize may make by itself, of 255.
_RESIZE_TOLERANCE = 8.0
#: Pixels up to which images are compared everywhere, and the places, in units of the sides, where larger ones are.
_MAX_EXACT = 1 << 14
_N_FEW = 16
_PLACES = np.random.default_rng(20251203).random((4096, 2))
#: Share of pixels that may differ at those places where fewer than `MAX_SHARE` do in all of the image.
_MAX_SEEN = MAX_SHARE + 0.05
#: A colour operation changes at least this share of the pixels; what changes fewer has no name.
_MIN_CHANGED = 1 / 256


def find_effects(before: Pixels, after: Pixels) -> Effects:
    """Compare the pixels of an image and a result: uint8 (H, W, 3), or (H, W, 4) whose last channel means nothing."""
    stored, shown = numbers(before), numbers(after)
    size = (stored.shape[1], stored.shape[0])
    exact = _matching(stored, shown)
    if exact and exact[0] == "identity":
        return NO_EFFECT
    if exact:
        return _turned(exact, size)
    if shown.size < stored.size:
        found = _find_cut_out(stored, shown, size)
        if found is not None:
            return found
    return _find_drawn(stored, shown, size) or _find_changed(stored, shown, size)


def _matching(stored: Numbers, shown: Numbers) -> list[str]:
    """The orientations of an image that are the other image; identity alone where it is among them."""
    table = _lookup(stored.shape, shown.shape)
    if not table.names:
        return []
    flat_stored, flat_shown = stored.reshape(-1), shown.reshape(-1)
    differ = ((flat_stored.take(table.few) ^ flat_shown.take(table.here[:_N_FEW])) & COLOUR).any(axis=1)
    found = []
    for name, places, is_other in zip(table.names, table.there, differ.tolist(), strict=True):
        if is_other:
            continue
        if shown.size <= _MAX_EXACT:
            difference = oriented(stored, name) ^ shown
        else:
            difference = flat_stored.take(places) ^ flat_shown.take(table.here)
        if not (difference & COLOUR).any():
            found.append(name)
            if name == "identity":
                break
    return found


@dataclass(frozen=True)
class _Lookup:
    """Where to look in two images: orientations that fit, and flat places in both for each one."""

    names: list[str]
    few: Any
    there: list[Any]
    here: Any


@lru_cache(maxsize=32)
def _lookup(before: tuple[int, ...], after: tuple[int, ...]) -> _Lookup:
    never_touched: Numbers = np.empty(before, np.uint32)  # only the steps of its views are of interest
    start = never_touched.__array_interface__["data"][0]
    ys, xs = _places_in(after)
    names, there = [], []
    for name in ORIENTATIONS:
        turned = oriented(never_touched, name)
        if turned.shape == after:
            first = turned.__array_interface__["data"][0] - start
            names.append(name)
            there.append((first + ys * turned.strides[0] + xs * turned.strides[1]) // 4)
    few = np.array([places[:_N_FEW] for places in there])
    return _Lookup(names, few, there, ys * after[1] + xs)


@lru_cache(maxsize=32)
def _places_in(shape: tuple[int, ...]) -> Any:
    """Rows and columns of the places at which images of a shape are compared."""
    return (_PLACES * shape).astype(np.intp).T


def _turned(names: list[str], size: Size) -> Effects:
    """One orientation is an answer; of a symmetric image several fit, and which was done cannot be seen."""
    if len(names) > 1:
        return UNKNOWN
    return Effects((names[0],), names[0], orientation_frame(names[0], size))


def _find_cut_out(stored: Numbers, shown: Numbers, size: Size) -> Effects | None:
    """The result as a part of the image in any orientation; None where it is none, no effects where it is several."""
    places = find_places(stored, shown)
    if places is None or len(places) > 1:
        return UNKNOWN
    for place in places:
        name = place.orientation
        frame = Affine(c=place.x, f=place.y).then(orientation_frame(name, size))
        return Effects(("crop",) if name == "identity" else (name, "crop"), name, frame)
    return None


def _find_drawn(stored: Numbers, shown: Numbers, size: Size) -> Effects | None:
    """An orientation of the image with something drawn on it; upright, where that is one; None where none is."""
    table = _lookup(stored.shape, shown.shape)
    if not table.names:
        return None
    flat_stored, flat_shown = stored.reshape(-1), shown.reshape(-1)
    few = ((flat_stored.take(table.few) ^ flat_shown.take(table.here[:_N_FEW])) & COLOUR) != 0
    found = []
    for name, places, share in zip(table.names, table.there, few.mean(axis=1).tolist(), strict=True):
        if share > 0.7:  # so many of so few places differ only where far more than a fourth of all do
            continue
        differ = ((flat_stored.take(places) ^ flat_shown.take(table.here)) & COLOUR) != 0
        if differ.mean() <= _MAX_SEEN and is_drawing(oriented(stored, name), shown):
            found.append(name)
            if name == "identity":
                return Effects(("draw",), name, Affine())
    return Effects((found[0], "draw"), found[0], orientation_frame(found[0], size)) if len(found) == 1 else None


def _find_changed(stored: Numbers, shown: Numbers, size: Size) -> Effects:
    """The whole image, in some orientation, resized or with other colours."""
    small_stored, small_shown = _standardised(stored), _standardised(shown)
    if small_stored is None or small_shown is None:
        return UNKNOWN
    scores = small_stored.reshape(-1)[_small_orientations()] @ small_shown.reshape(-1) / small_shown.size
    best, second = np.argsort(-np.abs(scores), kind="stable")[:2]
    if abs(scores[best]) < _ENOUGH or abs(scores[best]) - abs(scores[second]) < _LEAD:
        return UNKNOWN
    name = ORIENTATIONS[best]
    turned = oriented(stored, name)
    tools = [name] if name != "identity" else []
    if turned.shape != shown.shape:
        tools.append("resize")
    tools += _colour_tools(turned, shown)
    scale = Affine(a=turned.shape[1] / shown.shape[1], e=turned.shape[0] / shown.shape[0])
    return Effects(tuple(tools), name, scale.then(orientation_frame(name, size)))


@cache
def _small_orientations() -> Any:
    """Flat places, (8, S * S), at which a small version has the pixels of its orientations."""
    places = np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE)
    return np.stack([oriented(places, name).reshape(-1) for name in ORIENTATIONS])


def _shrunk(shown: Numbers, side: int) -> Numbers:
    """A square version, (side, side), of large images the mean of nine pixels each, evenly spread."""
    rows = np.ascontiguousarray(shown)
    four: Any = rows.view(np.uint8).reshape(*rows.shape, 4)
    if min(shown.shape) >= 6 * side:
        four = cv2.resize(four, (3 * side, 3 * side), interpolation=cv2.INTER_NEAREST_EXACT)
        four = np.ascontiguousarray(cv2.blur(four, (3, 3))[1::3, 1::3])  # means of three by three
    else:
        four = cv2.resize(four, (side, side), interpolation=cv2.INTER_AREA)
    return numbers(four)


def _standardised(shown: Numbers) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A small gray version with mean 0 and variance 1; None where it is flat."""
    small = colours(_shrunk(shown, _SIDE))
    gray = (small[..., 0].astype(np.float32) + small[..., 1] + small[..., 2]) / 3
    (mean,), (spread,) = (value.astype(np.float32)[0] for value in cv2.meanStdDev(gray))
    return None if spread < 1.0 else (gray - mean) / spread


def _colour_tools(turned: Numbers, shown: Numbers) -> list[str]:
    """Which colour operation is in the pixels; a plain name where it is recognised, else "color"."""
    tolerance = 0.0
    if turned.shape != shown.shape:
        before, after, tolerance = _shrunk(turned, 2 * _SIDE), _shrunk(shown, 2 * _SIDE), _RESIZE_TOLERANCE
    elif turned.size > _MAX_EXACT:
        ys, xs = _places_in(turned.shape)
        before, after = turned[ys, xs], shown[ys, xs]
    else:
        before, after = turned, shown
    before, after = (before & COLOUR).reshape(-1), (after & COLOUR).reshape(-1)
    if _difference(before, after) <= tolerance or np.count_nonzero(before ^ after) < _MIN_CHANGED * before.size:
        return []
    if _difference(before ^ COLOUR, after) <= tolerance:
        return ["invert"]
    return ["grayscale"] if _is_gray(after) and not _is_gray(before) else ["color"]


def _difference(before: Numbers, after: Numbers) -> float:
    """Mean difference of colours, of 255."""
    return cv2.norm(before.view(np.uint8), after.view(np.uint8), cv2.NORM_L1) / (3 * before.size)


def _is_gray(flat: Numbers) -> bool:
    return not ((flat ^ flat >> 8) & 0xFFFF).any()
