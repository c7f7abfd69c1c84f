"""Checks of literal parameters, each with a range that the library is known to take.

A check answers True where the library is known to accept the value, False where it is known to raise (the call is then
made to get the library's own message), and None where neither is certain: such a snippet does not lift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageColor

Value = None | bool | int | float | str | tuple["Value", ...]
Check = Callable[[Any], bool | None]


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, its check, and its default (`...` where it has none).

    `by_name` marks one that cannot be given by position: OpenCV's `dst` stands before it.
    """

    name: str
    check: Check
    default: Any = ...
    by_name: bool = False


def is_number(value: object) -> bool:
    """Whether the value is a finite int or float, no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: object) -> bool:
    """Whether the value is an int, no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(low: float, high: float) -> Check:
    """A number in [low, high]."""
    return lambda value: True if is_number(value) and low <= value <= high else None


def integer(low: int, high: int) -> Check:
    """An integer in [low, high]."""
    return lambda value: True if is_integer(value) and low <= value <= high else None


def odd(low: int, high: int) -> Check:
    """An odd integer in [low, high]; an even one is an error of the library."""
    return lambda value: (value % 2 == 1) if is_integer(value) and low <= value <= high else None


def one_of(*known: int) -> Check:
    """One of an enumeration's integers; another integer is an error of the library."""
    return lambda value: (value in known) if is_integer(value) else None


def only(*known: Value) -> Check:
    """Exactly one of these values."""
    return lambda value: True if any(type(value) is type(one) and value == one for one in known) else None


def pair(check: Check) -> Check:
    """A tuple of two that both pass."""
    return lambda value: True if isinstance(value, tuple) and len(value) == 2 and all(map(check, value)) else None


def maybe(check: Check) -> Check:
    """None, or what passes the check."""
    return lambda value: value is None or check(value)


def is_flag(value: object) -> bool | None:
    """A bool, or 0 or 1."""
    return True if isinstance(value, bool) or value in (0, 1) else None


def is_colour(value: object) -> bool | None:
    """A colour that Pillow can read for an RGB or gray image."""
    if isinstance(value, str):
        try:
            return len(ImageColor.getrgb(value)) == 3 or None
        except ValueError:
            return False
    if isinstance(value, tuple):
        return True if len(value) == 3 and all(is_integer(part) and 0 <= part <= 255 for part in value) else None
    return True if value is None or (isinstance(value, int) and is_integer(value) and 0 <= value <= 255) else None


def is_size(value: object) -> bool | None:
    """Two sides in pixels."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(map(is_number, value)):
        return None
    return all(is_integer(side) and side > 0 for side in value)


def is_area(value: object) -> bool | None:
    """Two sides in pixels, for calls that do not raise where there are none."""
    return is_size(value) or None


def is_box(value: object) -> bool | None:
    """An error where it is turned inside out; compared before it is rounded, as Pillow does."""
    if not isinstance(value, tuple) or len(value) != 4 or not all(map(is_number, value)):
        return None
    return bool(value[0] <= value[2] and value[1] <= value[3])


def is_source_box(value: object) -> bool | None:
    """None, or a box that holds a pixel."""
    return True if value is None or (is_box(value) and value[0] < value[2] and value[1] < value[3]) else None  # type: ignore[index]


def is_ratio(value: object) -> bool | None:
    """None, or at least 1."""
    if value is None:
        return True
    return value >= 1 if isinstance(value, int | float) and is_number(value) else None


def numbers(*lengths: int) -> Check:
    """A tuple of so many numbers."""
    return lambda value: (
        True
        if isinstance(value, tuple)
        and len(value) in lengths
        and all(is_number(part) and abs(part) <= 1e6 for part in value)
        else None
    )


#: Pixels from the origin within which a drawing may lie.
_FARTHEST = 1 << 14


def is_corners(value: object) -> bool | None:
    """Two corners (x1, y1, x2, y2) in order; Pillow raises otherwise."""
    if not isinstance(value, tuple) or numbers(4)(value) is None:
        return None
    x1, y1, x2, y2 = value
    return True if x1 <= x2 and y1 <= y2 and is_near(value) else None


def is_near(value: tuple[float, ...]) -> bool:
    """Whether coordinates lie where drawing is quick: far out, Pillow takes seconds for pixels that nobody sees."""
    return max(map(abs, value)) <= _FARTHEST


def is_points(value: object) -> bool | None:
    """Two to 32 points, flat."""
    return True if numbers(*range(4, 66, 2))(value) and isinstance(value, tuple) and is_near(value) else None


def is_scalar(value: object) -> bool | None:
    """A number, or one for each channel: OpenCV's scalar."""
    parts = value if isinstance(value, tuple) and 1 <= len(value) <= 4 else (value,)
    return True if all(is_number(part) and 0 <= part <= 255 for part in parts) else None


def is_border(value: object) -> bool | None:
    """A border of 1, 2 or 4 widths in pixels."""
    parts = value if isinstance(value, tuple) and len(value) in (2, 4) else (value,)
    return True if all(is_integer(part) and 0 <= part <= 4096 for part in parts) else None


RESAMPLING = one_of(*(int(member) for member in Image.Resampling))
AFFINE_RESAMPLING = one_of(0, 2, 3)
UNIT_PAIR = pair(number(0, 1))
#: Sides of a kernel; 0 where OpenCV finds them from sigma.
AUTO_KERNEL = pair(lambda value: True if value == 0 and is_integer(value) else odd(1, 99)(value))
