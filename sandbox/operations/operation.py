"""What is known of an operation before it runs: the state and the place of its pixels after it, and what it costs.

Sizes are (width, height) in pixels, costs nanoseconds per pixel of the larger side of the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sandbox.geometry import Affine, Size
from sandbox.operations.parameters import Parameter

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Operation:
    """One checked call.

    Attributes:
        name: A key of `OPERATIONS`.
        values: One value for each of its parameters.
        line: Line of the snippet that it was read from, 1-based; no part of its meaning.
    """

    name: str
    values: Values = ()
    line: int = field(default=1, compare=False)


@dataclass(frozen=True)
class State:
    """What is known of an image before it exists: its size and its mode ("RGB" or "L")."""

    size: Size
    mode: str = "RGB"


def same_state(values: Values, state: State) -> State:
    """Size and mode stay."""
    return state


def same_place(values: Values, size: Size) -> Affine | None:
    """Every pixel stays where it is."""
    return Affine()


def always(values: Values, size: Size) -> bool:
    """It acts on every image."""
    return True


def plain_cost(values: Values) -> float:
    """Of what looks at each pixel once or twice."""
    return 30.0


def filter_cost(values: Values) -> float:
    """Of filters with a small kernel, or of any radius in running sums."""
    return 150.0


def window_cost(values: Values) -> float:
    """Of filters that look at a window around each pixel; the first value is its side."""
    side = max(values[0]) if isinstance(values[0], tuple) else values[0]
    return float(30 + 15 * side * side)


def separable_cost(values: Values) -> float:
    """Of filters that go over rows, then over columns; the first value is the side, 0 where sigma tells it."""
    side = max(values[0]) if isinstance(values[0], tuple) else values[0]
    return float(60 + 4 * (side or 6 * max(values[1:])))


def kernel_cost(values: Values) -> float:
    """Of filters with a kernel, the first value, and perhaps a number of times, the second."""
    n_numbers = values[0].array.size if values[0] is not None else 9
    return 30.0 + 3.0 * float(n_numbers) * (values[1] if len(values) > 1 else 1)


def search_cost(values: Values) -> float:
    """Of a search in a window, whose side is the last value."""
    return 30.0 + 12.0 * float(values[-1] ** 2)


def no_images(values: Values, size: Size) -> tuple[Size, ...]:
    """The library makes no image beside its result."""
    return ()


@dataclass(frozen=True)
class Bound:
    """The most that a call costs, whatever its arguments, or why it has no bound.

    Attributes:
        ns: Nanoseconds of processor time per pixel, of the image before, the one after and those between.
        reason: Why there is no bound, or none for arguments for which it does not hold; "" if it always holds.
        holds: (values, size before) -> whether the bound holds.
        between: (values, size before) -> sizes of images that the library makes on the way.
    """

    ns: float = math.inf
    reason: str = ""
    holds: Callable[[Values, Size], bool] = always
    between: Callable[[Values, Size], tuple[Size, ...]] = no_images


#: Of calls that move whole pixels, that look at each value once or twice, and at a few values around each.
MOVE, POINT, AROUND = Bound(8), Bound(30), Bound(120)


@dataclass(frozen=True)
class Kind:
    """What is known of an operation.

    Attributes:
        tool: Its canonical tool name; None for one that is no tool of its own.
        call: Makes the call: (image, values) -> image.
        template: How it is written; `{x}` is the image, `{args}` the arguments, `{0}` the first value. One of several
            lines is statements that change `{x}`.
        parameters: In order.
        after: (values, state before) -> state after.
        frame: (values, size before) -> result pixels to pixels before.
        acts: False where the values are known to change nothing, given the size before.
        modes: Modes that the call takes.
        is_colour: True where only pixel values change, so that the effect is looked for in them.
        bound: What a call costs at most.
        cost: values -> nanoseconds per pixel of the larger side of the call, roughly and rather too many.
    """

    tool: str | None
    call: Callable[[Image.Image, Values], Image.Image]
    template: str
    parameters: tuple[Parameter, ...] = ()
    after: Callable[[Values, State], State] = same_state
    frame: Callable[[Values, Size], Affine | None] = same_place
    acts: Callable[[Values, Size], bool] = always
    modes: tuple[str, ...] = ("RGB", "L")
    is_colour: bool = True
    bound: Bound = POINT
    cost: Callable[[Values], float] = plain_cost
