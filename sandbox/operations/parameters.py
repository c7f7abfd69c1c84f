"""Checks of literal parameters: whether the library certainly accepts a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

from PIL import Image, ImageColor

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, its check, and its default (`...` if it has none).

    `by_name` marks a parameter that cannot be given by position, because OpenCV's `dst` comes before it.
    """

    name: str
    check: Check
    default: Any = ...
    by_name: bool = False


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether the value is a finite int or float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether the value is an int, but not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(low: float, high: float) -> Check:
    """A number in [low, high]."""
    return lambda value: is_number(value) and low <= value <= high


def integer(low: int, high: int) -> Check:
    """An integer in [low, high]."""
    return lambda value: is_integer(value) and low <= value <= high


def odd(low: int, high: int) -> Check:
    """An odd integer in [low, high]."""
    return lambda value: is_integer(value) and low <= value <= high and value % 2 == 1


def one_of(*known: int) -> Check:
    """One of an enumeration's integers."""
    return lambda value: is_integer(value) and value in known


def only(*known: object) -> Check:
    """Exactly one of these values."""
    return lambda value: any(type(value) is type(one) and value == one for one in known)


def pair(check: Check) -> Check:
    """A tuple of two values that both pass the check."""
    return lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(check, value))


def maybe(check: Check) -> Check:
    """None, or a value that passes the check."""
    return lambda value: value is None or check(value)


def is_flag(value: object) -> bool:
    """A bool, or 0 or 1."""
    return isinstance(value, bool) or value in (0, 1)


def is_color(value: object) -> bool:
    """A color that Pillow can read for an RGB or gray image."""
    if isinstance(value, str):
        try:
            return len(ImageColor.getrgb(value)) == 3
        except ValueError:
            return False
    if isinstance(value, tuple):
        return len(value) == 3 and all(is_integer(part) and 0 <= part <= 255 for part in value)
    return value is None or (is_integer(value) and 0 <= value <= 255)


def is_size(value: object) -> TypeGuard[tuple[int, int]]:
    """Two sides in pixels."""
    return isinstance(value, tuple) and len(value) == 2 and all(is_integer(side) and side > 0 for side in value)


def is_box(value: object) -> TypeGuard[tuple[float, float, float, float]]:
    """Four numbers whose corners are in order before rounding."""
    if not isinstance(value, tuple) or len(value) != 4 or not all(map(is_number, value)):
        return False
    return bool(value[0] <= value[2] and value[1] <= value[3])


def is_source_box(value: object) -> bool:
    """None, or a box that contains a pixel."""
    return value is None or (is_box(value) and value[0] < value[2] and value[1] < value[3])


def is_ratio(value: object) -> bool:
    """None, or at least 1."""
    return value is None or (is_number(value) and value >= 1)


def numbers(*lengths: int) -> Check:
    """A tuple of numbers with one of these lengths."""
    return lambda value: (
        isinstance(value, tuple)
        and len(value) in lengths
        and all(is_number(part) and abs(part) <= 1e6 for part in value)
    )


#: Largest distance in pixels from the origin at which a drawing may lie.
_FARTHEST = 1 << 14


def is_corners(value: object) -> bool:
    """Two corners (x1, y1, x2, y2) in order; Pillow raises otherwise."""
    return isinstance(value, tuple) and numbers(4)(value) and is_box(value) and is_near(value)


def is_near(value: tuple[float, ...]) -> bool:
    """Whether coordinates are near the image: far outside it, Pillow takes seconds for invisible pixels."""
    return max(map(abs, value)) <= _FARTHEST


def is_points(value: object) -> bool:
    """Two to 32 points, flat."""
    return isinstance(value, tuple) and numbers(*range(4, 66, 2))(value) and is_near(value)


def is_scalar(value: object) -> bool:
    """A number, or one number per channel: OpenCV's scalar."""
    parts = value if isinstance(value, tuple) and 1 <= len(value) <= 4 else (value,)
    return all(is_number(part) and 0 <= part <= 255 for part in parts)


def is_border(value: object) -> bool:
    """A border of 1, 2 or 4 widths in pixels."""
    parts = value if isinstance(value, tuple) and len(value) in (2, 4) else (value,)
    return all(is_integer(part) and 0 <= part <= 4096 for part in parts)


RESAMPLING = one_of(*(int(member) for member in Image.Resampling))
AFFINE_RESAMPLING = one_of(0, 2, 3)
UNIT_PAIR = pair(number(0, 1))
#: Sides of a kernel; for 0, OpenCV computes the side from sigma.
AUTO_KERNEL = pair(lambda value: (is_integer(value) and value == 0) or odd(1, 99)(value))
