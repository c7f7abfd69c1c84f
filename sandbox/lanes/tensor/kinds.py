"""The registry of tensor operations: modules register functions here, each with its largest difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sandbox.operations.operation import State, Values

#: Maps uint8 [N, C, H, W] and the values of each image to uint8 of the new shape.
Call = Callable[[Tensor, Sequence[Values]], Tensor]
#: A number that may depend on the values of a call.
Number = Callable[[Values], float]


def _constant(number: float) -> Number:
    return lambda values: number


@dataclass(frozen=True)
class TensorKind:
    """One way to do an operation.

    Attributes:
        call: The function.
        by: The library functions that it calls, for the documentation.
        is_per_image: Whether one call takes images with different values.
        most: Largest difference (of 255) from the library's result; 0 means bit for bit.
        far: Share of values that may differ by more, because a tie is rounded to the other side.
        growth: Factor by which the operation may enlarge a difference between two images.
        refuses: (values, state before) -> whether this call is left to the Pillow lane.
        reason: The reason for refusing.
    """

    call: Call
    by: str = "torch"
    is_per_image: bool = False
    most: Number = lambda values: 0
    far: Number = lambda values: 0
    growth: Number = lambda values: math.inf
    refuses: Callable[[Values, State], bool] = lambda values, state: False
    reason: str = ""

    def is_exact(self, values: Values) -> bool:
        """Whether it gives the library's own bits."""
        return self.most(values) == 0 == self.far(values)


#: The ways to do each operation; the first way that accepts a call is used.
KINDS: dict[str, list[TensorKind]] = {}


def operation(*names: str, **facts: Any) -> Callable[[Call], Call]:
    """Register a function for operations; `facts` are attributes of `TensorKind`; a number stands for a constant."""
    for key in facts.keys() & {"most", "far", "growth"}:
        if not callable(facts[key]):
            facts[key] = _constant(facts[key])

    def register(call: Call) -> Call:
        for name in names:
            KINDS.setdefault(name, []).append(TensorKind(call, **facts))
        return call

    return register
