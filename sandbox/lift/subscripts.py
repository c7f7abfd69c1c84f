"""Indices and slices of a snippet: of arrays of pixels, where they are crops and turns, and of constants."""

from __future__ import annotations

import ast
from typing import Any

from sandbox.lift.constants import Constants
from sandbox.lift.grids import item
from sandbox.lift.image_calls import cut, turned
from sandbox.lift.symbols import Grid, KnownFaultError, NotLiftableError, Picture, append


class Subscripts(Constants):
    """Reads subscripts.

    Attributes:
        line: Line of the statement or call that is being read.
    """

    line: int = 1

    def _read_subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        if isinstance(owner, Picture) and owner.is_array:
            return self._sliced(owner, node.slice)
        if isinstance(owner, Grid):
            return item(owner, self.value(node.slice))
        if not isinstance(owner, tuple | list):
            raise NotLiftableError("a subscript that is not read here")
        index = self._slice(node.slice) if isinstance(node.slice, ast.Slice) else self.value(node.slice)
        if not isinstance(index, slice) and (not isinstance(index, int) or isinstance(index, bool)):
            raise NotLiftableError("an index that is no integer")
        try:
            return owner[index]
        except IndexError as error:
            raise KnownFaultError("IndexError", str(error)) from None

    def _slice(self, node: ast.Slice) -> slice:
        bounds = [None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)]
        if any(bound is not None and (not isinstance(bound, int) or isinstance(bound, bool)) for bound in bounds):
            raise NotLiftableError("a slice with bounds that are no integers")
        return slice(*bounds)

    def _sliced(self, picture: Picture, node: ast.expr) -> Picture:
        """A crop, a flip or a swap of channels by slices of an array."""
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        n_axes = 2 if picture.is_gray else 3
        if n_axes == 3 and len(parts) > 1 and not isinstance(parts[-1], ast.Slice):
            last = self.value(parts[-1]) if not isinstance(parts[-1], ast.Constant) else parts[-1].value
            is_whole = len(parts) == 3 or (isinstance(parts[0], ast.Constant) and parts[0].value is Ellipsis)
            if isinstance(last, int) and not isinstance(last, bool) and -3 <= last < 3 and is_whole:
                rest = ast.Tuple([*parts[:-1], ast.Slice()], ast.Load())
                return append(self._sliced(picture, rest), "Image.getchannel", (last % 3,), self.line)
        ellipses = [i for i, part in enumerate(parts) if isinstance(part, ast.Constant) and part.value is Ellipsis]
        slices = [self._slice(part) for part in parts if isinstance(part, ast.Slice)]
        if len(slices) + len(ellipses) != len(parts) or len(ellipses) > 1 or len(slices) > n_axes:
            raise NotLiftableError("an index of an array that is no slice")
        before = ellipses[0] if ellipses else len(slices)
        slices[before:before] = [slice(None)] * (n_axes - len(slices))
        width, height = picture.state.size
        top, bottom, flips_rows = self._span(slices[0], height)
        left, right, flips_columns = self._span(slices[1], width)
        if (left, top, right, bottom) != (0, 0, width, height):
            picture = cut(picture, (left, top, right, bottom), self.line)
        orientation = {
            (False, False): "identity",
            (True, False): "flip_vertical",
            (False, True): "flip_horizontal",
        }.get((flips_rows, flips_columns), "rotate_180")
        picture = turned(picture, orientation, self.line)
        return picture if n_axes == 2 else self._channels(picture, slices[2])

    def _span(self, part: slice, length: int) -> tuple[int, int, bool]:
        start, stop, step = part.indices(length)
        if step not in (1, -1) or (stop - start) * step <= 0:
            raise NotLiftableError("a slice that skips pixels or holds none")
        return (start, stop, False) if step == 1 else (stop + 1, start + 1, True)

    def _channels(self, picture: Picture, part: slice) -> Picture:
        start, stop, step = part.indices(3)
        if (start, stop, step) == (0, 3, 1):
            return picture
        if (start, stop, step) == (2, -1, -1):
            return append(picture, "cv2.RGB2BGR", (), self.line)
        raise NotLiftableError("a slice of channels")
