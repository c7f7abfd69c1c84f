"""Number of pixels from which a group of equal calls is cheaper on a device than in the Pillow lane, per operation.

Numbers for a CPU are stored, as printed by `python benchmarks/tool_execution.py --thresholds`. Numbers for an
accelerator are measured when they are first needed, because machines differ.
"""

from __future__ import annotations

import math
import statistics
import time
from functools import cache

import numpy as np
import torch
from PIL import Image

from sandbox.lanes.tensor.batch import precise
from sandbox.lanes.tensor.images import to_tensor
from sandbox.lanes.tensor.selfcheck import kept_calls
from sandbox.lanes.tensor.table import kind_of
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from sandbox.threads import spread
from sandbox.types import Exactness

#: (images, side in pixels) of the timed batches, smallest first.
BATCHES = ((1, 128), (8, 128), (8, 512))


#: Measured on two cores of an AMD EPYC (Zen 4); operations that are not listed never pay off there.
_RANKS: dict[str, float] = {f"ImageFilter.{name}Filter": 16384 for name in ("Median", "Min", "Max", "Rank")}
CPU: dict[Exactness, dict[str, float]] = {"exact": _RANKS, "close": _RANKS | {"Image.resize": 131072}}


@cache
def threshold(name: str, device: torch.device, exactness: Exactness) -> float:
    """Total pixels of a group from which the device is cheaper; infinite if it never is."""
    return CPU[exactness].get(name, math.inf) if device.type == "cpu" else measure(name, device, exactness)


def measure(name: str, device: torch.device, exactness: Exactness) -> float:
    """Measure the pixels of the smallest batch at which the device runs an operation's usual call faster."""
    smallest = math.inf
    for n_images, side in reversed(BATCHES):
        seconds = costs(name, device, exactness, n_images, side)
        if seconds is None or seconds[0] >= seconds[1]:
            break
        smallest = n_images * side * side
    return smallest


def costs(
    name: str, device: torch.device, exactness: Exactness, n_images: int, side: int, rounds: int = 3
) -> tuple[float, float] | None:
    """Seconds of an operation's usual call on the device, including the transfer, and in the Pillow lane on all cores.

    Medians over rounds; each round runs both once. On a CPU, both use the same cores, which other processes may also
    use, so processor time is measured there. None if the lane does not accept the call.
    """
    values, mode = kept_calls()[name][0], OPERATIONS[name].modes[0]
    kind = kind_of(name, values, State((side, side), mode), exactness)
    if isinstance(kind, str):
        return None
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[tuple[float, float]] = []
    with precise(device):
        for _ in range(rounds + 1):
            start = clock()
            batch = torch.stack([to_tensor(image, device)[: len(image.getbands())] for _ in range(n_images)])
            kind.call(batch, [values] * n_images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            between = clock()
            spread(lambda _: OPERATIONS[name].call(image, values), range(n_images))
            times.append((between - start, clock() - between))
    ours, theirs = zip(*times[1:], strict=True)
    return statistics.median(ours), statistics.median(theirs)
