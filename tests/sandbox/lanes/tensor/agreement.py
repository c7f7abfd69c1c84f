"""Pictures, and helpers that compare the two lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from PIL import Image

from sandbox import Observation, ToolExecutor, ToolRequest
from sandbox.types import Exactness

CONTRACTS: list[Exactness] = ["exact", "close"]


#: Fields that depend on where an observation was made.
PLACE = {"lane", "wall_s", "exactness", "library"}


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def noise(width: int, height: int, seed: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(width: int, height: int) -> Image.Image:
    """Smooth colors with flat parts, as in photographs and charts."""
    small = np.random.default_rng(5).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def as_tensor(image: Image.Image, device: str) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous().to(device)


def run_both(
    requests: Sequence[ToolRequest], device: str = "cpu", exactness: Exactness = "exact"
) -> tuple[list[Observation], list[Observation]]:
    tensor = ToolExecutor(lane="kornia", device=device, exactness=exactness)
    with tensor, ToolExecutor(lane="pillow") as pillow:
        return tensor.execute(requests), pillow.execute(requests)


def assert_equal(one: Observation, other: Observation) -> None:
    """Compare every field that is not in `PLACE`, and the pixels if the lane is exact."""
    for field in fields(Observation):
        if field.name in PLACE:
            continue
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(theirs, Image.Image) and one.exactness == "close":
            assert (mine.mode, mine.size) == (theirs.mode, theirs.size)
        elif isinstance(theirs, Image.Image):
            assert (mine.mode, mine.size, mine.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes())
        else:
            assert mine == theirs, field.name
