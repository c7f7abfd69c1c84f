"""Finds the places where an image is a part of another one, in any of the eight orientations; exact and bounded.

A pixel of the part whose color is rare in the image gives the candidate places. Comparing a few more pixels at all of
these places leaves few candidates, which are then compared whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sandbox.effects.pixels import COLOR, Numbers, SearchBudget, oriented
from sandbox.geometry import ORIENTATIONS

#: Limits at which the search gives up: candidates to compare whole, and candidates to look at.
_MAX_WHOLE, _MAX_PLACES = 64, 1 << 17
#: A color is rare if the image has at most this many pixels of it.
_RARE = 16
#: A row of a part with fewer distinct pixels is too flat to search for.
_MIN_DISTINCT = 4
#: Rows and columns of a part that are compared first.
_N_SAMPLED = 9
#: Pixels of an image that are compared at once; they fit in a processor's cache.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class CropPlace:
    """A part of an image: the rectangle at (x, y), in pixels, of the image in an orientation."""

    orientation: str
    x: int
    y: int


def find_places(image: Numbers, part: Numbers, budget: SearchBudget) -> list[CropPlace] | None:
    """Find the places of the part in the image; None if that cannot be decided.

    If there is an upright place, only upright places are returned. The whole image in another orientation is no part.

    Args:
        image: Numbers of shape (H, W), without gaps in memory.
        part: Numbers of shape (h, w).
        budget: Pixels that the search may read.

    Raises:
        OutOfBudgetError: The search would read more.
    """
    row = _telling_row(part)
    if row is None:
        return []
    columns = _sampled(part.shape[1])
    starts = _rarest(image.reshape(-1), part[row] & COLOR, columns, budget)
    if starts is None:
        return None
    column, indices = starts
    places: list[CropPlace] = []
    for name in ORIENTATIONS if len(indices) else ():
        turned = oriented(image, name)
        if turned.shape == part.shape or turned.shape[0] < part.shape[0] or turned.shape[1] < part.shape[1]:
            continue
        ys, xs = _turned_places(name, indices, image.shape)
        found = _fitting(turned, part, ys - row, xs - column, row, budget)
        if found is None:
            return None
        places += [CropPlace(name, x, y) for x, y in found]
        if places and name == "identity":
            break
    return places


def _sampled(length: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, _N_SAMPLED).astype(int).tolist()))


def _telling_row(part: Numbers) -> int | None:
    """A row with many distinct pixels; None if all sampled rows are too flat to search for."""
    rows = _sampled(part.shape[0])
    distinct = 1 + (np.diff(np.sort(part[rows] & COLOR, axis=1), axis=1) != 0).sum(axis=1)
    best = int(np.argmax(distinct))
    return rows[best] if distinct[best] >= min(_MIN_DISTINCT, part.shape[1]) else None


def _rarest(flat: Numbers, telling: Numbers, columns: list[int], budget: SearchBudget) -> tuple[int, Any] | None:
    """A column whose color is rare in the image, and the flat indices of that color; None if all colors are common."""
    best: tuple[int, Any] | None = None
    for column in columns:
        indices = _indices(flat, telling[column], _MAX_PLACES if best is None else len(best[1]), budget)
        if indices is not None:
            best = column, indices
            if len(indices) <= _RARE:
                break
    return best


def _indices(flat: Numbers, color: np.uint32, most: int, budget: SearchBudget) -> Any | None:
    """Flat indices of a color; None if there are more than `most`."""
    parts, n_found = [], 0
    for start in range(0, len(flat), _CHUNK):
        budget.spend(_CHUNK)
        found = np.flatnonzero((flat[start : start + _CHUNK] & COLOR) == color)
        n_found += len(found)
        if n_found > most:
            return None
        if len(found):
            parts.append(found + start)
    return np.concatenate(parts) if parts else np.empty(0, np.intp)


@cache
def _corner(orientation: str) -> tuple[bool, bool, bool]:
    """Whether an orientation swaps rows and columns, starts at the last row, and starts at the last column."""
    turned = oriented(np.arange(4).reshape(2, 2), orientation)
    is_last_row, is_last_column = divmod(int(turned[0, 0]), 2)
    return abs(int(turned[0, 1] - turned[0, 0])) == 2, bool(is_last_row), bool(is_last_column)


def _turned_places(orientation: str, indices: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Rows and columns in the oriented view of an image (H, W), for flat indices of the image itself."""
    ys, xs = np.divmod(indices, shape[1])
    is_swapped, is_last_row, is_last_column = _corner(orientation)
    ys = shape[0] - 1 - ys if is_last_row else ys
    xs = shape[1] - 1 - xs if is_last_column else xs
    return (xs, ys) if is_swapped else (ys, xs)


def _fitting(
    turned: Numbers, part: Numbers, ys: Any, xs: Any, row: int, budget: SearchBudget
) -> list[tuple[int, int]] | None:
    """Those candidates (y, x) at which the part fits, as (x, y); None if too many are left to compare."""
    height, width = part.shape
    is_inside = (ys >= 0) & (xs >= 0) & (ys <= turned.shape[0] - height) & (xs <= turned.shape[1] - width)
    ys, xs = ys[is_inside], xs[is_inside]
    for y in (row, *_sampled(height)):
        for x in _sampled(width):
            if len(ys) <= 1:
                break
            budget.spend(4 * len(ys))
            is_equal = (turned[ys + y, xs + x] ^ part[y, x]) & COLOR == 0
            ys, xs = ys[is_equal], xs[is_equal]
    if len(ys) > _MAX_WHOLE:
        return None
    found = []
    for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
        budget.spend(4 * part.size)
        if not ((turned[y : y + height, x : x + width] ^ part) & COLOR).any():
            found.append((x, y))
    return found
