"""Decides whether two images differ by a drawing: a few flat colors laid over few of the pixels in strokes.

All other changes of few pixels must not pass for a drawing: noise, thresholds, replaced colors, thickened or thinned
letters, moved parts, regions that were blurred or inverted. If a change may be one of those, it is no drawing.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from sandbox.effects.pixels import COLOR, Numbers, colors

#: Smallest number of pixels of a drawing, and its largest share of the image.
MIN_DRAWN, MAX_SHARE = 16, 0.25
#: Largest number of colors of a drawing, and the smallest share of the changed pixels that show each color unblended.
_MAX_PENS, _MIN_PEN = 4, 0.05
#: Smallest shares of the changed pixels that are pen colors (pure, or blended at an edge) and that have two neighbors.
_MIN_EXPLAINED, _MIN_STROKES = 0.98, 0.9
#: Difference (of 255) that rounding may add to a blend.
_ROUNDING = 4
#: Smallest difference (of 255) of a visible pen pixel from the pixel below it, and the smallest share of such pixels.
_VISIBLE, _MIN_VISIBLE = 32, 0.75
#: Smallest share of the covered pixels whose color remains elsewhere at least as often as it was covered.
_MIN_INDEPENDENT = 0.75
#: With several pens, the smallest share of each pen that covers colors which another pen covers too.
_MIN_SHARED = 0.25
#: Distance to earlier strokes of the same color within which drawing resembles thickening, and the most that may be
#: there.
_NEAR, _MAX_NEAR = 8, 0.5
#: Window around an edge in pixels, and the largest shares of a change inside it and of its border at edges.
_ALONG, _MAX_ALONG, _MAX_AT_EDGES = 7, 0.95, 0.15
#: Largest number of rows and columns around a drawing that are read completely.
_MAX_SIDE = 1024
#: Pixels of an image, and changed pixels, that are sampled.
_MAX_LOOKED = 1 << 14


def is_drawing(before: Numbers, after: Numbers) -> bool:
    """Whether `after` is `before`, of the same shape (H, W), with something drawn on it."""
    is_changed: Any = ((before ^ after) & COLOR) != 0
    n_changed = int(np.count_nonzero(is_changed))
    if not MIN_DRAWN <= n_changed <= MAX_SHARE * is_changed.size:
        return False
    places = np.flatnonzero(is_changed)
    places = places[:: -(-len(places) // _MAX_LOOKED)]
    rows, columns = np.divmod(places, is_changed.shape[1])
    covered, drawn = before[rows, columns] & COLOR, after[rows, columns] & COLOR
    pens = _pens(drawn)
    if not len(pens) or not _explained(covered, drawn, pens):
        return False
    is_pen = np.isin(drawn, pens)
    if not _is_visible(covered[is_pen], drawn[is_pen]) or not _is_no_function(covered, drawn, pens):
        return False
    window = _window(rows, columns)
    around, is_changed_there = colors(before[window]), is_changed[window]
    return (
        _is_strokes(is_changed_there)
        and _is_independent(before, is_changed, covered[is_pen])
        and _is_apart(around, colors(after[window]), is_changed_there, pens)
        and not _follows_edges(around, is_changed_there)
    )


def _window(rows: Any, columns: Any) -> tuple[slice, slice]:
    """The part of an image around the changed pixels that is read completely."""
    slices = []
    for places in (rows, columns):
        middle, half = int(places[len(places) // 2]), _MAX_SIDE // 2  # at a changed pixel: there may be none halfway
        low, high = max(int(places.min()) - _NEAR, middle - half, 0), min(int(places.max()) + _NEAR + 1, middle + half)
        slices.append(slice(low, high))
    return slices[0], slices[1]


def _is_strokes(is_changed: Any) -> bool:
    """Whether the changed pixels touch each other; pixels of noise stand alone."""
    mask = np.ascontiguousarray(is_changed).view(np.uint8)
    n_around = cv2.boxFilter(mask, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return bool(np.count_nonzero((n_around > 2) & is_changed) >= _MIN_STROKES * np.count_nonzero(is_changed))


def _pens(drawn: Any) -> Any:
    """The pen colors: the colors of many changed pixels."""
    found, counts = np.unique(drawn, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_PENS]
    return found[order[counts[order] >= _MIN_PEN * len(drawn)]]


def _explained(covered: Any, drawn: Any, pens: Any) -> bool:
    """Whether the changed pixels are pen colors or, at the edges of letters and lines, blends with what they cover."""
    result, is_explained = colors(drawn).astype(np.float32), np.zeros(len(drawn), bool)
    for pen in pens:
        on_other = [np.full_like(drawn, other) for other in pens if other != pen]
        for ground in (covered, *on_other):
            is_explained |= _is_blend(result, colors(ground).astype(np.float32), colors(np.array([pen], np.uint32)))
    return bool(is_explained.mean() >= _MIN_EXPLAINED)


def _is_blend(result: Any, ground: Any, pen: Any) -> Any:
    """Whether each result lies between ground and pen, excluding the ground; all arrays are (N, 3)."""
    whole, part = pen - ground, result - ground
    channel = np.abs(whole).argmax(axis=1)[:, None]
    span = np.take_along_axis(whole, channel, 1)
    share = np.take_along_axis(part, channel, 1) / np.where(span == 0, 1, span)
    return (np.abs(part - share * whole) <= _ROUNDING).all(axis=1) & (share[:, 0] > 0) & (share[:, 0] <= 2)


def _is_visible(covered: Any, drawn: Any) -> bool:
    distance = np.abs(colors(covered).astype(np.int16) - colors(drawn)).max(axis=1)
    return bool((distance >= _VISIBLE).mean() >= _MIN_VISIBLE)


def _cells(shown: Any) -> Any:
    """Coarse colors as cell numbers, 8 x 8 x 8 cells."""
    eights = (colors(shown) >> 5).astype(np.int32)
    return (eights[..., 0] * 8 + eights[..., 1]) * 8 + eights[..., 2]


def _is_independent(before: Numbers, is_changed: Any, covered: Any) -> bool:
    """Whether the covered colors remain unchanged elsewhere: an operation on colors would change all pixels of a color.

    A color that covers much of the drawing's area is counted exactly, the others in cells, because the pixels of a
    photograph may all have different colors.
    """
    step = max(1, round(float(np.sqrt(before.size / _MAX_LOOKED))))
    looked, is_covered = before[::step, ::step], is_changed[::step, ::step]
    unchanged = looked[~is_covered] & COLOR
    found, place, counts = np.unique(covered, return_inverse=True, return_counts=True)
    # Scales counts of sampled pixels to the whole image.
    more = (before.size / looked.size) / (np.count_nonzero(is_changed) / len(covered))
    nearest = np.minimum(np.searchsorted(found, unchanged), len(found) - 1)
    n_same = np.bincount(nearest[found[nearest] == unchanged], minlength=len(found)) * more
    cells, n_cells = _cells(covered), np.bincount(_cells(unchanged), minlength=512) * more
    is_left = n_cells[cells] >= np.bincount(cells, minlength=512)[cells]
    is_common = counts >= _MIN_PEN * len(covered)
    if (is_left & ~(is_common & (n_same < counts))[place]).mean() < _MIN_INDEPENDENT:
        return False
    for here, there in zip(_features(covered), _features(unchanged), strict=True):
        low, high = np.percentile(here, (1, 99))
        if np.count_nonzero((there >= low) & (there <= high)) * more < len(covered):
            return False
    return True


def _features(shown: Any) -> list[Any]:
    """Features by which operations select colors, one array each: RGB, HSV, and differences of channels."""
    of = colors(shown).reshape(-1, 1, 3)
    red, green, blue = (of[:, 0, channel].astype(np.int16) for channel in range(3))
    hsv = cv2.cvtColor(np.ascontiguousarray(of), cv2.COLOR_RGB2HSV)[:, 0]
    return [red, green, blue, *hsv.T, red - green, green - blue, blue - red]


def _is_no_function(covered: Any, drawn: Any, pens: Any) -> bool:
    """Whether several pens are independent of what they cover, unlike after inverting or moving a part of a page."""
    if len(pens) == 1:
        return True
    cells = _cells(covered)
    tables = np.stack([np.bincount(cells[drawn == pen], minlength=512) for pen in pens])
    is_shared = (tables > 0).sum(axis=0) > 1
    return bool(((tables * is_shared).sum(axis=1) >= _MIN_SHARED * tables.sum(axis=1)).all())


def _is_apart(before: Any, after: Any, is_changed: Any, pens: Any) -> bool:
    """Whether most of the drawing is far from earlier pixels of its color; thickened letters lie around letters."""
    n_near = n_pens = 0
    for pen in colors(pens).astype(int):
        low, high = np.clip(pen - _VISIBLE, 0, 255), np.clip(pen + _VISIBLE, 0, 255)
        is_near = cv2.dilate(cv2.inRange(before, low, high), np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8))
        is_pen = (cv2.inRange(after, pen, pen) > 0) & is_changed
        n_near += int(np.count_nonzero(is_near[is_pen]))
        n_pens += int(np.count_nonzero(is_pen))
    return n_near <= _MAX_NEAR * n_pens


def _follows_edges(before: Any, is_changed: Any) -> bool:
    """Whether the change lies along edges of the picture, or ends at them, more often than by chance."""
    if min(is_changed.shape) < 2:
        return True  # a line of pixels has no strokes
    across = cv2.absdiff(before[:, 1:], before[:, :-1]).max(axis=2) >= _VISIBLE
    down = cv2.absdiff(before[1:], before[:-1]).max(axis=2) >= _VISIBLE
    is_edge = np.zeros(is_changed.shape, np.uint8)
    is_edge[:, 1:] |= across
    is_edge[1:] |= down
    is_along = cv2.dilate(is_edge, np.ones((_ALONG, _ALONG), np.uint8)).astype(bool)
    if is_along[is_changed].mean() > _MAX_ALONG > is_along.mean():
        return True
    ends = is_changed[:, 1:] != is_changed[:, :-1], is_changed[1:] != is_changed[:-1]
    n_ends = ends[0].sum() + ends[1].sum()
    at_edges = (across & ends[0]).sum() + (down & ends[1]).sum()
    elsewhere = (across.sum() + down.sum() - at_edges) / max(1, across.size + down.size - n_ends)
    return bool(at_edges / max(1, n_ends) > 1.5 * elsewhere + _MAX_AT_EDGES)
