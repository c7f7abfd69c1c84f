"""Decides which programs run in the trainer: those with bounded time and memory, whatever their arguments."""

from __future__ import annotations

from sandbox.geometry import Size
from sandbox.images import check_size
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from sandbox.types import Limits

#: Nanoseconds that a program may take in the trainer's process, where nothing could stop it.
MAX_NS = 250e6
#: Nanoseconds of any call, in addition to the cost of its pixels.
CALL_NS = 5e6
#: Nanoseconds per pixel to find what an operation changed.
CREDIT_NS = 10.0


def fits_in_process(program: ToolProgram, size: Size, limits: Limits, *, is_credited: bool = True) -> bool:
    """Whether a program certainly ends soon, with all its images within the limits of a result.

    Args:
        program: The program, as the reader returned it.
        size: Size of the image that it starts from.
        limits: Limits of a result.
        is_credited: Whether its effects are computed as well.
    """
    spent, before, n_seen = 0.0, size, 0
    for place, operation in enumerate(program.operations, 1):
        known = program.sizes[place] if place < len(program.sizes) else None
        after = before if known is None else known
        bound = OPERATIONS[operation.name].bound
        between = bound.between(operation.values, before)
        sizes = (before, after, *between)
        if not bound.holds(operation.values, before) or any(check_size(one, limits) for one in sizes):
            return False
        pixels = sum(width * height for width, height in sizes)
        n_seen += OPERATIONS[operation.name].is_color
        spent += CALL_NS + (bound.ns + CREDIT_NS * OPERATIONS[operation.name].is_color) * pixels
        before = after
    # If colors changed more than once, the program runs again without them to see which changes remain.
    return spent * (2 if n_seen > 1 else 1) + CREDIT_NS * before[0] * before[1] * is_credited <= MAX_NS
