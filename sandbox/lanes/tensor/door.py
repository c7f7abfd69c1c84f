"""What the executor asks: which programs go to the device, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from sandbox.lanes.pillow import Outcome
from sandbox.lanes.tensor.costs import CPU_COSTS, Costs, measure
from sandbox.lanes.tensor.images import TensorImage
from sandbox.lanes.tensor.lane import KorniaLane
from sandbox.operations.program import ToolProgram

Call = tuple[ToolProgram, Image.Image]


class TensorLane:
    """Takes the programs that it can do and for which it is cheaper.

    Args:
        device: As torch names it; None is the first accelerator, or else the CPU.
        is_forced: Take whatever it can do, whatever that costs.

    Raises:
        ValueError: The device is not there.
    """

    def __init__(self, device: str | None, *, is_forced: bool) -> None:
        self._lane = KorniaLane(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._is_forced = is_forced
        self._costs: Costs | None = CPU_COSTS if self._lane.device.type == "cpu" else None

    def run(self, calls: Sequence[Call]) -> list[Outcome | None]:
        """What each program did to its image; None for those that the Pillow lane is to run."""
        places = [place for place, (program, _) in enumerate(calls) if self._lane.why_declined(program) is None]
        if not self._is_forced:
            places = self._cheaper(calls, places)
        outcomes: list[Outcome | None] = [None] * len(calls)
        if places:
            programs, images = zip(*(calls[place] for place in places), strict=True)
            for place, outcome in zip(places, self._lane.run(programs, images), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _cheaper(self, calls: Sequence[Call], places: Sequence[int]) -> list[int]:
        """Those places whose group of equal chains on images of one size is cheaper on the device."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place in places:
            program, image = calls[place]
            names = tuple(operation.name for operation in program.operations)
            if names:
                groups.setdefault((names, image.size), []).append(place)
        if groups and self._costs is None:
            try:
                self._costs = measure(str(self._lane.device))
            except Exception as error:  # noqa: BLE001 - an accelerator that fails must not end a training step
                self._lane.warn("measure its costs", error)
                self._costs = CPU_COSTS
        chosen = []
        for group in groups.values():
            program, image = calls[group[0]]
            names = tuple(operation.name for operation in program.operations)
            images = {id(calls[place][1]): calls[place][1] for place in group}
            n_uploads = sum(not isinstance(one, TensorImage) for one in images.values())
            if self._costs is not None and self._costs.is_tensor_cheaper(names, image.size, len(group), n_uploads):
                chosen += group
        return sorted(chosen)
