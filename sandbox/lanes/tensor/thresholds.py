"""From how many pixels on a group of equal calls is cheaper on a device than in the Pillow lane: one number for each.

Of a CPU they are stored, as `python benchmarks/tool_execution.py --thresholds` prints them; of an accelerator each is
measured when it is first asked for, because machines differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from sandbox.lanes.tensor.batch import precise
from sandbox.lanes.tensor.images import to_tensor
from sandbox.lanes.tensor.selfcheck import CALLS
from sandbox.lanes.tensor.table import TensorKind, kind_of
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from sandbox.threads import spread
from sandbox.types import Exactness

#: (images, side in pixels) of the batches that are timed, the smallest first.
BATCHES = ((1, 128), (8, 128), (8, 512))
_REPEATS = 3


class Thresholds:
    """Thresholds of one device under one contract.

    Args:
        device: Where the tensor lane runs.
        exactness: The contract.
    """

    def __init__(self, device: torch.device, exactness: Exactness) -> None:
        self._device, self._exactness = device, exactness
        self._known = dict(CPU) if device.type == "cpu" else {}

    def of(self, name: str) -> float:
        """Pixels of all images of a group from which on the device is cheaper; infinite if it never is."""
        if name not in self._known:
            self._known[name] = math.inf if self._device.type == "cpu" else measure(name, self._device, self._exactness)
        return self._known[name]


def measure(name: str, device: torch.device, exactness: Exactness) -> float:
    """Time one operation in both lanes: the pixels of the smallest batch from which on the device wins."""
    values, mode = CALLS.get(name, [()])[0], OPERATIONS[name].modes[0]
    threshold = math.inf
    for n_images, side in reversed(BATCHES):
        kind = kind_of(name, values, State((side, side), mode), exactness)
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
        if isinstance(kind, str) or not _is_cheaper(kind, name, image, n_images, device):
            break
        threshold = n_images * side * side
    return threshold


def _is_cheaper(kind: TensorKind, name: str, image: Image.Image, n_images: int, device: torch.device) -> bool:
    """Whether a batch is done faster on the device, with the way there, than in Pillow on all cores."""
    values = CALLS.get(name, [()])[0]
    channels = len(image.getbands())

    def on_device() -> None:
        batch = torch.stack([to_tensor(image, device)[:channels] for _ in range(n_images)])
        kind.call(batch, [values] * n_images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def in_pillow() -> None:
        spread(lambda _: OPERATIONS[name].call(image, values), range(n_images))

    # On a CPU both use the same cores, which others may use, too: what counts there is processor time.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with precise(device):
        return _seconds(on_device, clock) < _seconds(in_pillow, clock)


def _seconds(call: Callable[[], None], clock: Callable[[], float]) -> float:
    """The fastest of some calls, after one that is not counted."""
    call()
    times = []
    for _ in range(_REPEATS):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


#: Of two cores of an AMD EPYC (Zen 4), under either contract; what is not here never pays there.
CPU: dict[str, float] = {"ImageFilter.MinFilter": 16384, "ImageFilter.MaxFilter": 16384}
