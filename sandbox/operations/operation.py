"""Operations, and what is known about each kind before it runs: state, frame and bound.

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
    """State after an operation that keeps size and mode."""
    return state


def same_place(values: Values, size: Size) -> Affine | None:
    """Frame of an operation that leaves every pixel in place."""
    return Affine()


def always(values: Values, size: Size) -> bool:
    """True for all values."""
    return True


def no_images(values: Values, size: Size) -> tuple[Size, ...]:
    """No sizes: the library makes no image besides its result."""
    return ()


@dataclass(frozen=True)
class Bound:
    """The highest cost of a call, whatever its arguments, or why it has no bound.

    Attributes:
        ns: Nanoseconds of processor time per pixel of the image before, the image after and those between.
        reason: Why there is no bound, or why some arguments have none; "" if the bound always holds.
        holds: (values, size before) -> whether the bound holds.
        between: (values, size before) -> sizes of the library's intermediate images.
    """

    ns: float = math.inf
    reason: str = ""
    holds: Callable[[Values, Size], bool] = always
    between: Callable[[Values, Size], tuple[Size, ...]] = no_images


#: Bounds of calls that move whole pixels, that read each value once or twice, and that read a few values around each.
MOVE, POINT, AROUND = Bound(8), Bound(30), Bound(120)


@dataclass(frozen=True)
class Kind:
    """One row of the table of operations.

    Attributes:
        tool: Its canonical tool name; None if it has none.
        call: (image, values) -> image.
        template: Its Python text; `{x}` is the image, `{args}` the arguments, `{0}` the first value. A template of
            several lines consists of statements that change `{x}`.
        parameters: Its parameters, in order.
        after: (values, state before) -> state after.
        frame: (values, size before) -> result pixels to pixels before.
        modes: Modes that the call accepts.
        bound: The highest cost of the call.
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
    def is_color(self) -> bool:
        """Whether every pixel stays in its place, so that only values change."""
        return self.frame is same_place


def called(tool: str | None, function: Any, template: str, *parameters: Parameter, **known: Any) -> Kind:
    """An operation that calls `function` with the image and the parameters by name."""
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        result: Image.Image = function(image, **dict(zip(names, values, strict=True)))
        return result

    return Kind(tool, call, template, parameters, **known)
