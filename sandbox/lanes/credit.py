"""What lifted programs are credited for: tools, orientation and frame, whichever lane ran them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from sandbox.geometry import ORIENTATIONS, Affine, Size, compose, orientation_frame
from sandbox.operations.formulas import tool_of
from sandbox.operations.operation import Operation
from sandbox.operations.outputs import rounded_box
from sandbox.operations.table import OPERATIONS

_RIGHT_ANGLES = {90: "rotate_90", 180: "rotate_180", 270: "rotate_270"}


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Whether two images look the same: equal size and equal RGB values."""
    if one.size != other.size:
        return False
    rows = max(1, (1 << 16) // max(one.width, 1))
    for top in range(0, one.height, rows):
        box = (0, top, one.width, min(top + rows, one.height))
        if one.crop(box).convert("RGB").tobytes() != other.crop(box).convert("RGB").tobytes():
            return False
    return True


class LiftedEffects:
    """What the operations of a program did, one after the other; whichever lane did them."""

    def __init__(self) -> None:
        self.tools: list[tuple[str, bool]] = []
        self.orientation = "identity"
        self.frame: Affine | None = Affine()
        self.is_oblique = False

    @property
    def net_orientation(self) -> str | None:
        """Element of the eight; None after a turn by another angle."""
        return None if self.is_oblique else self.orientation

    def add(self, operation: Operation, size: Size, is_changed: Callable[[], bool]) -> None:
        """Add an operation on an image of `size`; `is_changed` looks whether it changed a pixel's RGB values."""
        kind = OPERATIONS[operation.name]
        place = kind.frame(operation.values, size)
        self.frame = place.then(self.frame) if place is not None and self.frame is not None else None
        self.is_oblique |= place is None
        if kind.is_colour:
            tool = colour_tool(operation, size)
            if tool is not None and is_changed():
                self.tools.append((tool, True))
            return
        for tool in _moves(operation, size):
            if tool in ORIENTATIONS:
                self.orientation = compose(self.orientation, tool)
            self.is_oblique |= tool in {"rotate", "affine", "perspective"}
            self.tools.append((tool, False))

    def net_tools(self, is_colourless: Callable[[], bool], is_source: Callable[[], bool]) -> tuple[str, ...]:
        """The tools whose effect is left at the end: turns count by their sum, and what was undone does not count.

        Args:
            is_colourless: Looks whether the result is the same without the colour operations.
            is_source: Looks whether the result is the source.
        """
        names: list[str] = []
        is_moved = any(tool not in ORIENTATIONS for tool, is_colour in self.tools if not is_colour)
        if sum(is_colour for _, is_colour in self.tools) > 1 and is_colourless():
            self.tools = [(tool, is_colour) for tool, is_colour in self.tools if not is_colour]
        for tool, _ in self.tools:
            net = self.orientation if tool in ORIENTATIONS else tool
            if net != "identity" and net not in names:
                names.append(net)
        return () if is_moved and len(self.tools) > 1 and is_source() else tuple(names)


def colour_tool(operation: Operation, size: Size) -> str | None:
    """The tool of a colour operation on an image of `size`; None where it has none or is known to change nothing."""
    kind = OPERATIONS[operation.name]
    tool = "grayscale" if operation.name == "Image.convert" and operation.values[0] == "L" else kind.tool
    tool = tool_of(operation.values[0]) if operation.name == "np.formula" else tool
    return tool if kind.acts(operation.values, size) else None


def _moves(operation: Operation, size: Size) -> list[str]:
    """The tools of an operation that moves pixels, from its values alone."""
    values: tuple[Any, ...] = operation.values
    kind = OPERATIONS[operation.name]
    if operation.name == "orient":
        return [str(values[0])]
    if operation.name == "Image.rotate":
        angle = values[0] % 360
        if angle == 0 or angle in _RIGHT_ANGLES:  # off Pillow's fast path: shifted, or the corners are cut
            return [_RIGHT_ANGLES[int(angle)], "crop"] if angle else ["crop"]
        return ["rotate"]
    if operation.name == "Image.crop":
        left, top, right, bottom = rounded_box(values[0])
        width, height = size
        cuts = left > 0 or top > 0 or right < width or bottom < height
        grows = left < 0 or top < 0 or right > width or bottom > height
        return ["crop"] * cuts + ["pad"] * grows
    if operation.name == "cv2.warpAffine":
        return [_turn_of(kind.frame(values, size), values[1], size) or "affine"]
    return [kind.tool] if kind.tool and kind.acts(values, size) else []


def _turn_of(frame: Affine | None, size: Size, before: Size) -> str | None:
    """The orientation that a map is but for a pixel at the border; None for any other map."""
    for name in ORIENTATIONS[1:]:
        turn = orientation_frame(name, before)
        corners = [(x, y) for x in (0, size[0]) for y in (0, size[1])]
        if frame is not None and all(
            abs(one - other) <= 1.01
            for x, y in corners
            for one, other in zip(frame.point(x, y), turn.point(x, y), strict=True)
        ):
            return name
    return None
