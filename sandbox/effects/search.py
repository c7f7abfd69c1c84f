"""Finds from the pixels alone what code did to an image, for results that no claim explains.

Exact matches are tried first (the eight orientations, cut-outs of an orientation, drawings on an orientation), then an
orientation of the whole image that was resized or recolored. If two answers fit, or no answer does, the result is
unknown. Large images are first compared at random places that the code cannot foresee; if those are equal, everywhere.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np

from sandbox.effects.credit import NO_EFFECT, UNKNOWN, Effects
from sandbox.effects.crops import find_places
from sandbox.effects.drawings import MAX_SHARE, is_drawing
from sandbox.effects.pixels import COLOR, Numbers, OutOfBudgetError, Pixels, SearchBudget, colors, numbers, oriented
from sandbox.geometry import ORIENTATIONS, Affine, Size, orientation_frame

#: Side in pixels of the small gray images that are compared.
_SIDE = 48
#: Smallest correlation of those images for an orientation, and its smallest lead over the second best.
_ENOUGH, _LEAD = 0.9, 0.15
#: Mean difference (of 255) between small versions that a resize alone may cause.
_RESIZE_TOLERANCE = 8.0
#: Pixels that are compared at once, and the number of places to look at first, drawn anew for each search.
_MAX_EXACT, _N_PLACES = 1 << 14, 4096
#: Places for a first look. If more than this share of them differ, far more than `_MAX_SEEN` of all places differ.
_N_FEW, _MAX_FEW = 16, 0.7
#: Pixels that the search for a cut-out or a drawing may read.
_MAX_LOOKED = 40_000_000
#: Largest share of the places that may differ if less than `MAX_SHARE` of the whole image differs.
_MAX_SEEN = MAX_SHARE + 0.05
#: A color operation changes at least this share of the pixels; a smaller change gets no name.
_MIN_CHANGED = 1 / 256


def find_effects(before: Pixels, after: Pixels) -> Effects:
    """Compare the pixels of an image and a result: uint8 (H, W, 3), or (H, W, 4) with a last channel to ignore.

    The work is bounded for all images: a search that would exceed the bound finds nothing.
    """
    stored, shown = numbers(before), numbers(after)
    size, budget = (stored.shape[1], stored.shape[0]), SearchBudget(_MAX_LOOKED)
    views = {name: oriented(stored, name) for name in ORIENTATIONS}
    fitting = {name: turned for name, turned in views.items() if turned.shape == shown.shape}
    ys, xs = (np.random.default_rng().random((_N_PLACES, 2)) * shown.shape).astype(np.intp).T
    shares = {name: _share(turned, shown, ys, xs) for name, turned in fitting.items()}
    exact = [name for name, share in shares.items() if share == 0 and _is_same(fitting[name], shown)]
    if "identity" in exact:
        return NO_EFFECT
    if exact:
        return _turned(exact, size)
    try:
        found = _find_cut_out(stored, shown, size, budget) if shown.size < stored.size else None
        nearest = sorted((name for name in shares if shares[name] <= _MAX_SEEN), key=shares.__getitem__)[:2]
        few = {name: fitting[name] for name in sorted(nearest, key=ORIENTATIONS.index)}
        return found or _find_drawn(few, shown, size, budget) or _find_changed(stored, shown, size)
    except OutOfBudgetError:
        return UNKNOWN


def _share(turned: Numbers, shown: Numbers, ys: Any, xs: Any) -> float:
    """Share of the places at which two images differ; estimated from a few places if most of those differ."""
    few = _differ(turned, shown, ys[:_N_FEW], xs[:_N_FEW]).mean()
    return float(few if few > _MAX_FEW else _differ(turned, shown, ys, xs).mean())


def _differ(turned: Numbers, shown: Numbers, ys: Any, xs: Any) -> Any:
    return ((turned[ys, xs] ^ shown[ys, xs]) & COLOR) != 0


def _is_same(turned: Numbers, shown: Numbers) -> bool:
    """Whether two images are equal everywhere, compared in strips that fit in a processor's cache."""
    rows = max(1, _MAX_EXACT // shown.shape[1])
    tops = range(0, shown.shape[0], rows)
    return not any(((turned[top : top + rows] ^ shown[top : top + rows]) & COLOR).any() for top in tops)


def _turned(names: list[str], size: Size) -> Effects:
    """Effects of the one orientation that fits; unknown if several fit, as they do for a symmetric image."""
    if len(names) > 1:
        return UNKNOWN
    return Effects((names[0],), names[0], orientation_frame(names[0], size))


def _find_cut_out(stored: Numbers, shown: Numbers, size: Size, budget: SearchBudget) -> Effects | None:
    """Find the result as a part of the image in any orientation; None if it is no part, unknown if it is ambiguous."""
    places = find_places(stored, shown, budget)
    if places is None or len(places) > 1:
        return UNKNOWN
    for place in places:
        name = place.orientation
        frame = Affine(c=place.x, f=place.y).then(orientation_frame(name, size))
        return Effects(("crop",) if name == "identity" else (name, "crop"), name, frame)
    return None


def _find_drawn(views: dict[str, Numbers], shown: Numbers, size: Size, budget: SearchBudget) -> Effects | None:
    """Find the view of the image that was drawn on: the upright one if it fits, otherwise the only one that fits."""
    found = []
    for name, turned in views.items():
        budget.spend(2 * shown.size + 10 * min(shown.size, 1 << 20))  # parts of large images are looked at closely
        if is_drawing(turned, shown):
            if name == "identity":
                return Effects(("draw",), name, Affine())
            found.append(name)
    return Effects((found[0], "draw"), found[0], orientation_frame(found[0], size)) if len(found) == 1 else None


def _find_changed(stored: Numbers, shown: Numbers, size: Size) -> Effects:
    """Effects if the result is the whole image in some orientation, resized or with other colors."""
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
    tools += _color_tools(stored, name, shown)
    scale = Affine(a=turned.shape[1] / shown.shape[1], e=turned.shape[0] / shown.shape[0])
    return Effects(tuple(tools), name, scale.then(orientation_frame(name, size)))


@cache
def _small_orientations() -> Any:
    """Flat indices, (8, S * S), that turn a small version into its eight orientations."""
    places = np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE)
    return np.stack([oriented(places, name).reshape(-1) for name in ORIENTATIONS])


def _shrunk(shown: Numbers, side: int) -> Numbers:
    """A square version, (side, side). For large images, each pixel is the mean of nine evenly spread pixels."""
    rows = np.ascontiguousarray(shown)
    four: Any = rows.view(np.uint8).reshape(*rows.shape, 4)
    if min(shown.shape) >= 6 * side:
        four = cv2.resize(four, (3 * side, 3 * side), interpolation=cv2.INTER_NEAREST_EXACT)
        four = np.ascontiguousarray(cv2.blur(four, (3, 3))[1::3, 1::3])  # means of three by three
    else:
        four = cv2.resize(four, (side, side), interpolation=cv2.INTER_AREA)
    return numbers(four)


def _standardised(shown: Numbers) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A small gray version with mean 0 and variance 1; None if the image is flat."""
    small = colors(_shrunk(shown, _SIDE))
    gray = (small[..., 0].astype(np.float32) + small[..., 1] + small[..., 2]) / 3
    (mean,), (spread,) = (value.astype(np.float32)[0] for value in cv2.meanStdDev(gray))
    return None if spread < 1.0 else (gray - mean) / spread


def _color_tools(stored: Numbers, name: str, shown: Numbers) -> list[str]:
    """Name the color operation that the pixels show: its own name if recognized, else "color"; empty for no change."""
    turned, tolerance = oriented(stored, name), 0.0
    if turned.shape != shown.shape:
        before, after, tolerance = (
            oriented(_shrunk(stored, 2 * _SIDE), name),
            _shrunk(shown, 2 * _SIDE),
            _RESIZE_TOLERANCE,
        )
    elif turned.size > _MAX_EXACT:
        ys, xs = (np.random.default_rng().random((_N_PLACES, 2)) * turned.shape).astype(np.intp).T
        before, after = turned[ys, xs], shown[ys, xs]
    else:
        before, after = turned, shown
    before, after = (before & COLOR).reshape(-1), (after & COLOR).reshape(-1)
    if _difference(before, after) <= tolerance or np.count_nonzero(before ^ after) < _MIN_CHANGED * before.size:
        return []
    if _difference(before ^ COLOR, after) <= tolerance:
        return ["invert"]
    return ["grayscale"] if _is_gray(after) and not _is_gray(before) else ["color"]


def _difference(before: Numbers, after: Numbers) -> float:
    """Mean difference of the colors, of 255."""
    return cv2.norm(before.view(np.uint8), after.view(np.uint8), cv2.NORM_L1) / (3 * before.size)


def _is_gray(flat: Numbers) -> bool:
    return not ((flat ^ flat >> 8) & 0xFFFF).any()
