"""Finds the effects that a program's operations earn: the visible tools, the net orientation and the frame.

The rules are the same in every lane. Identical pixels earn nothing, neither after one operation nor at the end. A move
is named by its effect on the picture, whatever call made it: `resize` with a box is a crop. A name stays only if the
net result shows it: a border that was cut off again is no pad.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox.geometry import ORIENTATIONS, Affine, Box, Size, compose, orientation_of
from sandbox.operations.operation import Operation
from sandbox.operations.table import OPERATIONS

#: Pixels by which a border, a size or a corner must change to be visible. A warp places a turn a pixel off.
_VISIBLE, _VISIBLE_WARP = 0.99, 1.02


@dataclass(frozen=True)
class Effects:
    """Tools, net orientation and frame, as in an `Observation`."""

    tools: tuple[str, ...] = ()
    orientation: str | None = None
    frame: Affine | None = None


UNKNOWN = Effects()
NO_EFFECT = Effects((), "identity", Affine())


class Credit:
    """Adds up what the operations of a program did to an image of `size`, in any lane.

    Attributes:
        tools: Name of each effect, and whether it is a color effect.
    """

    def __init__(self, size: Size) -> None:
        self.tools: list[tuple[str, bool]] = []
        self._source, self._size = size, size
        self._n_changes = 0
        self._orientation: str | None = "identity"
        self._frame: Affine | None = Affine()
        self._seen: Box | None = (0, 0, *size)

    def add(self, operation: Operation, after: Size, is_changed: Callable[[], bool]) -> None:
        """Add an operation whose result has size `after`; `is_changed` compares RGB values of equal sizes."""
        before, self._size = self._size, after
        if before == after and not is_changed():
            return
        self._n_changes += 1
        kind = OPERATIONS[operation.name]
        place = kind.frame(operation.values, before)
        self._frame = place.then(self._frame) if place is not None and self._frame is not None else None
        if kind.is_color:
            if (tool := color_tool(operation)) is not None:
                self.tools.append((tool, True))
            if place is None:
                self._orientation = self._seen = None
            return
        turn, names = moves_of(operation, before, after)
        self.tools += [(name, False) for name in names]
        is_known = turn is not None and self._orientation is not None
        self._orientation = compose(self._orientation, turn) if is_known else None  # type: ignore[arg-type]
        if turn is None or self._frame is None:
            self._seen = None
        elif self._seen is not None:
            self._seen = _common(self._seen, self._frame.box((0, 0, *after)))

    @property
    def needs_colorless(self) -> bool:
        """Whether color operations may have undone each other, so that `effects` needs the result without them."""
        return sum(is_color for _, is_color in self.tools) > 1

    def effects(self, is_source: Callable[[], bool], is_colorless: Callable[[], bool]) -> Effects:
        """The effects that are visible at the end.

        Args:
            is_source: Tells whether the result equals the source.
            is_colorless: Tells whether the result is the same without the color operations.
        """
        is_back = self._n_changes > 1 and self._size == self._source and is_source()
        if is_back or not self._n_changes:
            return NO_EFFECT
        without_color = self.needs_colorless and is_colorless()
        hidden = self._hidden()
        names: list[str] = []
        for tool, is_color in self.tools:
            net = self._orientation or tool if tool in ORIENTATIONS else tool
            if net not in names and net not in hidden and not (is_color and without_color):
                names.append(net)
        return Effects(tuple(names), self._orientation, self._frame)

    def _hidden(self) -> set[str]:
        """Names of moves that later moves undid."""
        hidden = {"identity"}
        if self._seen is None or self._frame is None:
            return hidden
        box, (width, height) = self._frame.box((0, 0, *self._size)), self._size
        if _inset(self._seen, (0, 0, *self._source)) < _VISIBLE:
            hidden.add("crop")
        if _inset(self._seen, box) < _VISIBLE * _scale(self._frame):
            hidden.add("pad")
        if not _is_resized(box, self._frame, width, height):
            hidden.add("resize")
        return hidden


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _inset(inner: Box, outer: Box) -> float:
    """The largest distance of a side of the inner box from the same side of the outer box, measured inward."""
    return max(inner[0] - outer[0], inner[1] - outer[1], outer[2] - inner[2], outer[3] - inner[3])


def _scale(frame: Affine) -> float:
    """Pixels of the source per pixel of the result."""
    return max(abs(frame.a), abs(frame.b), abs(frame.d), abs(frame.e))


def _is_resized(box: Box, frame: Affine, width: int, height: int) -> bool:
    """Whether a result of this size shows a box of the source at another scale."""
    wide, high = (height, width) if abs(frame.b) > abs(frame.a) else (width, height)
    return max(abs(box[2] - box[0] - wide), abs(box[3] - box[1] - high)) >= _VISIBLE


def color_tool(operation: Operation) -> str | None:
    """The tool name of a color operation; None if it has none."""
    if operation.name == "Image.convert" and operation.values[0] == "L":
        return "grayscale"
    return OPERATIONS[operation.name].tool


def moves_of(operation: Operation, before: Size, after: Size) -> tuple[str | None, list[str]]:
    """The orientation of an operation that moves pixels (None if it is oblique), and the names of its moves."""
    kind = OPERATIONS[operation.name]
    frame, own = kind.frame(operation.values, before), [kind.tool] if kind.tool else []
    if frame is None:
        return None, own
    turn = orientation_of(frame, after, _VISIBLE)
    if turn != "identity" and operation.name != "cv2.warpAffine":  # a warp that is almost a turn is no turn
        turn = orientation_of(frame, after)
    if turn is None:
        return None, own
    visible = _VISIBLE_WARP if operation.name == "cv2.warpAffine" else _VISIBLE
    box, whole = frame.box((0, 0, *after)), (0, 0, *before)
    names = [] if turn == "identity" else [turn]
    if _inset(_common(box, whole), whole) >= visible:
        names.append("crop")
    if _is_resized(box, frame, *after):
        names.append("resize")
    # A crop that reaches beyond the image, as a misread box does, is no attempt to pad it.
    is_pad = "crop" not in names and operation.name != "Image.rotate"
    if is_pad and _inset(whole, box) >= visible * _scale(frame):
        names.append("pad")
    return turn, names
