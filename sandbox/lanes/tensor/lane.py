"""The tensor lane: takes the programs that a device can run, or only those that it runs faster than Pillow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import kornia
import torch

from sandbox.geometry import Size
from sandbox.lanes.lane import Lifted
from sandbox.lanes.pillow import observed
from sandbox.lanes.tensor.batch import ProgramBatches, Steps
from sandbox.lanes.tensor.selfcheck import broken_operations
from sandbox.lanes.tensor.thresholds import threshold
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness, Limits, Observation


class TensorLane:
    """Runs the programs that its contract allows, if that is cheaper than the Pillow lane.

    Args:
        device: The device, as torch names it; None is the first accelerator, or the CPU if there is none.
        is_forced: Take every program that the contract allows, at any cost.
        exactness: How close the pixels must be to the Pillow lane's.
        limits: Limits on intermediate images.

    Raises:
        ValueError: The machine does not have the device.
    """

    name = "kornia"

    def __init__(
        self, device: str | None, *, is_forced: bool, exactness: Exactness = "exact", limits: Limits | None = None
    ) -> None:
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._batches = ProgramBatches(name, exactness, limits)
        self._is_forced, self._exactness = is_forced, exactness
        self._is_checked = False

    def run(self, calls: Sequence[Lifted]) -> list[Observation | None]:
        """Return the observation of each program, in order; None for those that another lane must run."""
        start = time.perf_counter()
        if calls:
            self._check()
        planned = ((place, self._batches.plan(call.program)) for place, call in enumerate(calls))
        plans = {place: steps for place, steps in planned if not isinstance(steps, str)}
        places = sorted(plans) if self._is_forced else self._cheaper(calls, plans)
        chosen = [calls[place] for place in places]
        outcomes = self._batches.run([plans[place] for place in places], [call.image for call in chosen])
        wall_s = time.perf_counter() - start
        observations: list[Observation | None] = [None] * len(calls)
        for place, call, outcome in zip(places, chosen, outcomes, strict=True):
            if outcome is not None:
                seen = observed(call.program, outcome, self.name, wall_s)
                library = f"kornia {kornia.__version__}"
                observations[place] = replace(seen, exactness=self._exactness, library=library)
        return observations

    def close(self) -> None:
        """Do nothing: the lane has no processes to end."""

    def disown(self) -> None:
        """Do nothing: the lane has no processes to release."""

    def _check(self) -> None:
        """Check once, and leave to the Pillow lane the operations in which this Kornia or device breaks the table."""
        if self._is_checked:
            return
        self._is_checked = True
        broken = broken_operations(str(self._batches.device), self._exactness)
        if broken:
            self._batches.declined = broken
            text = f"The Pillow lane runs {len(broken)} operations that failed a check: {'; '.join(broken.values())}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _cheaper(self, calls: Sequence[Lifted], plans: dict[int, Steps]) -> list[int]:
        """Indices of calls whose group of equal operation names and image sizes is cheaper on the device.

        The operation with the highest bound on cost decides for the whole program.
        """
        groups: dict[tuple[tuple[str, ...], Size], list[int]] = {}
        for place, steps in plans.items():
            names = tuple(step.operation.name for step in steps)
            if names:
                groups.setdefault((names, calls[place].image.size), []).append(place)
        chosen = []
        for (names, (width, height)), group in groups.items():
            try:
                dearest = max(names, key=lambda name: OPERATIONS[name].bound.ns)
                n_pixels = threshold(dearest, self._batches.device, self._exactness)
            except Exception as error:  # noqa: BLE001 - an accelerator that fails must not end a training step
                self._batches.warn("measure its costs", error)
                continue
            if len(group) * width * height >= n_pixels:
                chosen += group
        return sorted(chosen)
