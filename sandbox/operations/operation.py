"""What is known of an operation before it runs: the state and the place of its pixels after it, and what it costs.

Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    """

    name: str
    values: Values = ()


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
    """Whatever the values are."""
    return True


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
        modes: Modes that the call takes.
        is_colour: True where only pixel values change, so that the effect is looked for in them.
        bound: What a call costs at most.
    """

    tool: str | None
    call: Callable[[Image.Image, Values], Image.Image]
    template: str
    parameters: tuple[Parameter, ...] = ()
    after: Callable[[Values, State], State] = same_state
    frame: Callable[[Values, Size], Affine | None] = same_place
    modes: tuple[str, ...] = ("RGB", "L")
    is_colour: bool = True
    bound: Bound = POINT
