"""The tensor lane: takes the programs that a device does, or does faster than Pillow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from sandbox.lanes.lane import Lifted
from sandbox.lanes.pillow import observed
from sandbox.lanes.tensor.batch import ProgramBatches
from sandbox.lanes.tensor.costs import CPU_COSTS, Costs, measure
from sandbox.lanes.tensor.images import TensorImage
from sandbox.types import Observation


class TensorLane:
    """Runs those programs that it can do exactly, if that is cheaper than in the Pillow lane.

    Args:
        device: As torch names it; None is the first accelerator, or else the CPU.
        is_forced: Take whatever it can do, whatever that costs.

    Raises:
        ValueError: The device is not there.
    """

    name = "kornia"

    def __init__(self, device: str | None, *, is_forced: bool) -> None:
        self._batches = ProgramBatches(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._is_forced = is_forced
        self._costs: Costs | None = CPU_COSTS if self._batches.device.type == "cpu" else None

    def run(self, calls: Sequence[Lifted]) -> list[Observation | None]:
        """The observation of each program, in order; None for those that another lane is to run."""
        start = time.perf_counter()
        places = [place for place, call in enumerate(calls) if self._batches.why_declined(call.program) is None]
        if not self._is_forced:
            places = self._cheaper(calls, places)
        chosen = [calls[place] for place in places]
        outcomes = self._batches.run([call.program for call in chosen], [call.image for call in chosen])
        wall_s = time.perf_counter() - start
        observations: list[Observation | None] = [None] * len(calls)
        for place, call, outcome in zip(places, chosen, outcomes, strict=True):
            if outcome is not None:
                observations[place] = replace(observed(call.program, outcome, self.name), wall_s=wall_s)
        return observations

    def close(self) -> None:
        """There is nothing to end."""

    def disown(self) -> None:
        """There is nothing to let go of."""

    def _cheaper(self, calls: Sequence[Lifted], places: Sequence[int]) -> list[int]:
        """Those places whose group of equal chains on images of one size is cheaper on the device."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place in places:
            names = tuple(operation.name for operation in calls[place].program.operations)
            if names:
                groups.setdefault((names, calls[place].image.size), []).append(place)
        if groups and self._costs is None:
            try:
                self._costs = measure(str(self._batches.device))
            except Exception as error:  # noqa: BLE001 - an accelerator that fails must not end a training step
                self._batches.warn("measure its costs", error)
                self._costs = CPU_COSTS
        chosen = []
        for group in groups.values():
            names = tuple(operation.name for operation in calls[group[0]].program.operations)
            images = {id(calls[place].image): calls[place].image for place in group}
            n_uploads = sum(not isinstance(image, TensorImage) for image in images.values())
            size = calls[group[0]].image.size
            if self._costs is not None and self._costs.is_tensor_cheaper(names, size, len(group), n_uploads):
                chosen += group
        return sorted(chosen)
