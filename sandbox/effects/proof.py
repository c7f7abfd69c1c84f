"""Proves a worker's claim of how it made a result: runs the claim again and compares the pixels.

A claim is a straight-line snippet, written by a process that the policy's code owns. It is read like any snippet, by
the rules of `sandbox.lift`, and counts only if our own operations make the same pixels from it. So forging a claim
gains nothing: anyone who knows a program that makes these pixels could have written that program.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sandbox.effects.credit import UNKNOWN, Effects
from sandbox.effects.outcome import Outcome, run_operation, run_program
from sandbox.effects.pixels import Pixels, same_pixels
from sandbox.effects.search import find_effects
from sandbox.geometry import Size, orient, orientation_frame
from sandbox.images import as_rgb, copy_into
from sandbox.lift.reader import Reading, Unliftable, lift
from sandbox.operations.bounds import fits_in_process
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram
from sandbox.types import LastCall, Limits

#: Largest number of characters and lines of a claim, and the text that it may hold: calls with literals, nothing else.
_MAX_CHARS, _MAX_LINES = 4096, 64
_PLAIN = re.compile(r"[\w .,=()\[\]'\"#:+\-\n]*", re.ASCII)
_KEYWORD = re.compile(r"\b(?:for|if|while|lambda|def|class|import|with|try|async|await|yield|assert|del|print)\b")
_TARGET = re.compile(r"(v\d+) = ")
#: Rows of a turned result that are compared at once.
_STRIP = 128
#: A result still shows an intermediate image if its correlation with that image is at least this.
_ENOUGH = 0.95

#: Runs the proof of a bounded claim, if there is time for it.
RunHere = Callable[[Callable[[], Outcome | None]], Outcome | None]
#: Runs a program on an image in a process that can be ended; None if the process was ended.
RunElsewhere = Callable[[ToolProgram, Image.Image], Outcome | None]


@dataclass(frozen=True)
class ReadClaim:
    """A claim that was read.

    Attributes:
        program: The operations that it claims.
        is_whole: False if its last lines cannot be read: it leads to an image before the result.
    """

    program: ToolProgram
    is_whole: bool


def find_credit(
    images: Sequence[Image.Image],
    chosen: int,
    result: Image.Image,
    text: str,
    run_elsewhere: RunElsewhere | None = None,
    limits: Limits | None = None,
    last: LastCall | None = None,
    run_here: RunHere | None = None,
) -> Effects:
    """Find the effects that the code that made `result` earns; never raises.

    A proven claim decides. Otherwise the pixels are compared with those of the chosen image. If that finds nothing, the
    claim may still lead to an intermediate image. If one table per channel turns that image into the result, exactly at
    every pixel, the effects of the claim and the color change both count. This covers arithmetic on arrays, which is
    not logged.

    Args:
        images: The images of the request.
        chosen: Index of the image that was asked about.
        result: An RGB image.
        text: The worker's claim; "" if there is none.
        run_elsewhere: Runs programs that are not bounded by construction. If None, they are not run.
        limits: Limits on a result; None for the default ones.
        last: The last call, if the trainer ran it.
        run_here: Runs bounded proofs; None: they are run at once.
    """
    try:
        return _found(images, chosen, result, text, run_elsewhere, limits or Limits(), last, run_here or _run_at_once)
    except Exception as error:  # noqa: BLE001 - pixels of one policy must not end the calls of others
        warnings.warn(f"The search for the effects of a result failed: {error!r}", RuntimeWarning, stacklevel=2)
        return UNKNOWN


def _found(
    images: Sequence[Image.Image],
    chosen: int,
    result: Image.Image,
    text: str,
    run_elsewhere: RunElsewhere | None,
    limits: Limits,
    last: LastCall | None,
    run_here: RunHere,
) -> Effects:
    claim = read_claim(text, tuple(image.size for image in images), chosen)
    outcome = None
    if claim is not None:
        source = claim.program.source
        start = as_rgb(images[chosen if source is None else source])
        is_turn = [operation.name for operation in claim.program.operations] == ["orient"]  # it makes no image
        if is_turn or fits_in_process(claim.program, start.size, limits):
            outcome = run_here(lambda: _run(claim, start, result, last))
        elif run_elsewhere is not None:
            outcome = run_elsewhere(claim.program, start)
        if claim.is_whole and outcome is not None and same_pixels(result, outcome.image):
            return outcome.effects if source is None else Effects(outcome.effects.tools)
    after = _pixels(result)
    found = find_effects(_pixels(as_rgb(images[chosen])), after)
    is_on_the_way = claim is not None and claim.program.operations and claim.program.source is None
    if found != UNKNOWN or not is_on_the_way or outcome is None or outcome.image is None:
        return found
    return _continued(outcome.effects, outcome.image.convert("RGB"), result)


def _run_at_once(prove: Callable[[], Outcome | None]) -> Outcome | None:
    return prove()


def _continued(effects: Effects, end: Image.Image, result: Image.Image) -> Effects:
    """Effects of a program followed by one table per channel; unknown if no such tables turn `end` into `result`."""
    if end.size != result.size or not _is_by_tables(end, result):
        return UNKNOWN
    rest = find_effects(_pixels(end), _pixels(result))
    if rest.orientation != "identity":
        return UNKNOWN
    return Effects(tuple(dict.fromkeys((*effects.tools, *rest.tools))), effects.orientation, effects.frame)


def _is_by_tables(before: Image.Image, after: Image.Image) -> bool:
    """Whether each channel is an exact table of the same channel before, and most of its content is still visible.

    Without the second condition, one flat color would be a table of any image.
    """
    for values, shown in zip(before.split(), after.split(), strict=True):
        old, new = np.asarray(values), np.asarray(shown)
        table = np.zeros(256, np.uint8)
        table[old] = new
        if (table[old] != new).any():
            return False
        grays = np.stack([old.ravel(), new.ravel()]).astype(np.float32)
        if np.min(np.std(grays, axis=1)) < 1 or float(np.asarray(np.corrcoef(grays))[0, 1]) < _ENOUGH:
            return False
    return True


def read_claim(text: str, sizes: tuple[Size, ...], chosen: int) -> ReadClaim | None:
    """Read a claim as a program; None if it is too long, or contains more than calls with literals.

    If a line cannot be read, the claim ends at the image that the line before it made.

    Args:
        text: The worker's claim.
        sizes: Sizes (width, height) of the images of the request.
        chosen: Index of the image that was asked about.
    """
    lines = text.split("\n")
    is_plain = 0 < len(text) <= _MAX_CHARS and _PLAIN.fullmatch(text) and not _KEYWORD.search(text)
    if not is_plain or len(lines) > _MAX_LINES:
        return None
    read: Reading = lift(text, sizes, chosen)
    is_whole = not isinstance(read, Unliftable)
    if isinstance(read, Unliftable):
        readable = lines[: read.line - 1]
        target = _TARGET.match(readable[-1]) if readable else None
        if target is None:
            return None
        read = lift("\n".join([*readable, f"result = {target[1]}"]), sizes, chosen)
    if not isinstance(read, ToolProgram) or not read.has_result:
        return None
    return ReadClaim(read, is_whole)


def _run(claim: ReadClaim, source: Image.Image, result: Image.Image, last: LastCall | None) -> Outcome | None:
    """Run the program of a claim; the outcome holds `result` itself if the last operation gives the same pixels.

    The last operation is not run again if the trainer has already run it on the same image. A turn is compared without
    making its image, because the new memory pages would cost more than anything else.
    """

    def finish(operation: Operation, image: Image.Image) -> Image.Image:
        is_run = last is not None and operation == last.operation and same_pixels(image, last.before)
        is_turn = operation.name == "orient" and image.mode == "RGB" and claim.is_whole
        is_result = is_run or (is_turn and _turns_to(operation, image, result))
        return result if is_result else run_operation(operation, image)

    return run_program(claim.program, source, finish)


def _turns_to(operation: Operation, image: Image.Image, result: Image.Image) -> bool:
    """Whether one of the eight orientations gives the result, exactly."""
    turn = operation.values[0]
    frame = orientation_frame(turn, image.size)
    if frame.box((0, 0, *result.size)) != (0, 0, *image.size):
        return False
    for top in range(0, result.height, _STRIP):
        strip = (0, top, result.width, min(top + _STRIP, result.height))
        left, upper, right, lower = (round(edge) for edge in frame.box(strip))
        if not same_pixels(orient(image.crop((left, upper, right, lower)), turn), result.crop(strip)):
            return False
    return True


def _pixels(image: Image.Image) -> Pixels:
    four = np.empty((image.height, image.width, 4), np.uint8)
    copy_into(four, image)
    return four
