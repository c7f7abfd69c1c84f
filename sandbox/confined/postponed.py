"""Leaves the last turn or resize of a snippet to the trainer, which must run it anyway to prove that it was done.

In a worker, large images returned by `rotate`, `transpose` and `resize` have no pixels until something reads them. If
nothing has read them at the end, the worker hands over the image before the call, and the call itself. The trainer runs
the call by its own operations. The result is then what was claimed, at the cost of one run.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from sandbox.confined import wire
from sandbox.geometry import Size
from sandbox.operations.bounds import fits_in_process
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram
from sandbox.types import Limits

#: Pixels of a result from which a second run costs more than this detour.
_LEAST = 1 << 14
#: The turns for which `Image.rotate` calls `transpose`.
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_SWAPPING = (
    *(Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
)


class Postponed:
    """Placeholder for the pixels that a call will produce, with the attributes that Pillow reads without the pixels.

    Attributes:
        mode: Mode of the image.
        readonly: Whether the image must be copied before it changes.
        size: Size of the image, (width, height).
        source: Pixels before the call, which nothing else changes; None after the call has run.
        text: The call as Python, on `image`.
    """

    mode, readonly = "RGB", 0

    def __init__(self, size: Size, text: str, run: Callable[[Any], Any]) -> None:
        self.size, self.text, self._run = size, text, run
        self.source: Any = None
        self._pixels: Any = None

    def pixels(self) -> Any:
        """The pixels, made when they are first read."""
        if self._pixels is None:
            self._pixels, self.source = self._run(self.source), None
        return self._pixels


#: Pixels of the call's images, which nothing can change, and the placeholders made during the call.
_inputs: list[Any] = []
_made: weakref.WeakSet[Postponed] = weakref.WeakSet()


def can_be_left(operation: Operation, before: Size, after: Size) -> bool:
    """Whether the trainer runs such a call for a worker: only if it is bounded by construction."""
    is_known = operation.name in ("orient", "Image.resize")
    program = ToolProgram((operation,), sizes=(before, after))
    return is_known and fits_in_process(program, before, Limits(), is_credited=False)


def begin(images: Sequence[Image.Image]) -> None:
    """Record the images that a call is shown."""
    _inputs[:] = [image.im for image in images]
    _made.clear()


def end() -> None:
    """Release the images that the call was shown, but copy those that placeholders in variables still need."""
    for pending in _made if _made else ():
        if _is_input(pending.source):
            pending.source = pending.source.copy()
    _inputs.clear()


def _is_input(pixels: Any) -> bool:
    return any(pixels is one for one in _inputs)


def postpone(method: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Image.Image | None:
    """The image that a method of a Pillow image will return; None if the method must run now."""
    image = arguments[0]
    if type(image) is not Image.Image or image.mode != "RGB" or min(image.size) < 1:
        return None
    pending: Postponed | None = None
    with contextlib.suppress(Exception):  # wrong arguments: the method itself reports them
        pending = METHODS[method](image, *arguments[1:], **keywords)
    if pending is None:
        return None
    image.load()
    pending.source = image.im if _is_input(image.im) else image.im.copy()
    _made.add(pending)
    in_place_of_pixels: Any = pending
    return image._new(in_place_of_pixels)


def _resize(image: Image.Image, size: Any, resample: Any = None, box: Any = None) -> Postponed | None:
    whole = (0, 0, *image.size)
    if type(size) not in (tuple, list) or type(box) not in (tuple, list, type(None)):
        return None
    new, part, method = tuple(size), whole if box is None else tuple(box), 3 if resample is None else int(resample)
    if [*map(type, new)] != [int, int] or not {*map(type, part)} <= {int, float}:
        return None
    left, top, right, bottom = part
    is_inside = 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
    is_known = method in range(6) and not isinstance(resample, float | bool)
    if not (is_known and is_inside) or (new, part) == (image.size, whole):
        return None
    given = None if box is None else part
    if not _is_worth(Operation("Image.resize", (new, method, given, None)), image.size, new):
        return None
    text = f"image.resize({new}, {resample if resample is None else method}, {given})"
    return Postponed(new, text, lambda source: source.resize(new, method, part))


def _transpose(image: Image.Image, method: Any) -> Postponed | None:
    turn, (width, height) = Image.Transpose(method), image.size
    size = (height, width) if turn in _SWAPPING else (width, height)
    if isinstance(method, float | bool) or not _is_worth(Operation("orient", ("rotate_90",)), image.size, size):
        return None
    return Postponed(size, f"image.transpose({int(turn)})", lambda source: source.transpose(turn))


def _rotate(image: Image.Image, angle: Any, *, expand: Any = False) -> Postponed | None:
    turn = _TURNS.get(angle % 360) if type(angle) in (int, float) else None
    is_turn = turn is not None and (angle % 360 == 180 or expand is True or image.width == image.height)
    return _transpose(image, turn) if is_turn else None


#: Methods of a Pillow image, and the functions that read their arguments.
METHODS: dict[str, Callable[..., Postponed | None]] = {"resize": _resize, "rotate": _rotate, "transpose": _transpose}


def _is_worth(operation: Operation, before: Size, after: Size) -> bool:
    return after[0] * after[1] >= _LEAST and can_be_left(operation, before, after)


def hand_over(image: Image.Image, text: str, claim: str, chosen: Any) -> wire.Made:
    """Build a worker's answer for a result; `chosen` holds the pixels of the chosen image as it was shown."""
    pending = image.__dict__.get("_im")
    if type(pending) is not Postponed or pending.source is None:
        return wire.Made(wire.IMAGE, image, text, claim)
    before = None if pending.source is chosen else Image.Image()._new(pending.source)
    return wire.Made(wire.UNFINISHED, before, text, claim, f"result = {pending.text}")


def install() -> None:
    """Make Pillow images compute postponed pixels when something reads them."""
    own: Any = Image.Image.im

    def pixels(image: Image.Image) -> Any:
        pending = image.__dict__.get("_im")
        if type(pending) is Postponed:
            image._im = pending.pixels()
        return own.fget(image)

    Image.Image.im = property(pixels, own.fset)  # type: ignore[assignment]
