"""Operations, and the facts about each kind of operation before it runs: state, frame and bound.

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
    """Size and mode ("RGB" or "L") of an image that need not exist yet."""

    size: Size
    mode: str = "RGB"


def same_state(values: Values, state: State) -> State:
    """Size and mode stay."""
    return state


def same_place(values: Values, size: Size) -> Affine | None:
    """Every pixel stays where it is."""
    return Affine()


def always(values: Values, size: Size) -> bool:
    """It does for all values."""
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
    """One row of the table of operations.

    Attributes:
        tool: Its canonical tool name; None if it is no tool.
        call: (image, values) -> image.
        template: How it is written; `{x}` is the image, `{args}` the arguments, `{0}` the first value. One of several
            lines is statements that change `{x}`.
        parameters: Its parameters, in order.
        after: (values, state before) -> state after.
        frame: (values, size before) -> result pixels to pixels before.
        modes: Modes that the call takes.
        bound: The most that a call costs.
    """

    tool: str | None
    call: Callable[[Image.Image, Values], Image.Image]
    template: str
    parameters: tuple[Parameter, ...] = ()
    after: Callable[[Values, State], State] = same_state
    frame: Callable[[Values, Size], Affine | None] = same_place
    modes: tuple[str, ...] = ("RGB", "L")
    bound: Bound = POINT

    @property
    def is_colour(self) -> bool:
        """Whether every pixel stays in its place, so that only values change."""
        return self.frame is same_place


def called(tool: str | None, function: Any, template: str, *parameters: Parameter, **known: Any) -> Kind:
    """An operation that is a call of `function` with the image and the parameters by their names."""
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        result: Image.Image = function(image, **dict(zip(names, values, strict=True)))
        return result

    return Kind(tool, call, template, parameters, **known)
