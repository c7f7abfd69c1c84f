"""Compares a device with the Pillow lane, operation by operation; needs only this package and its libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import cv2
import kornia
import numpy as np
import torch
from PIL import Image

from sandbox.geometry import Size
from sandbox.lanes.tensor.batch import check_device, precise
from sandbox.lanes.tensor.images import to_pillow
from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.lanes.tensor.table import kind_of
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State, Values
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness

Differences = np.ndarray[Any, np.dtype[np.int64]]


@cache
def kept_calls() -> dict[str, list[Values]]:
    """Values by operation: first those picked by hand (the usual one first), then some drawn at random once."""
    lines = files(__package__).joinpath("calls.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["name"]: [_read(values) for values in (*row.get("picked", ()), *row["drawn"])] for row in rows}


def _read(value: Any) -> Any:
    """A value read from JSON, with tuples and tables."""
    if isinstance(value, dict):
        return Table(**{key: _read(part) for key, part in value.items()})
    return tuple(map(_read, value)) if isinstance(value, list) else value


def operations_of(exactness: Exactness) -> list[str]:
    """Names of the operations for which the lane can run at least one kept call."""
    state = State((64, 48))
    return [
        name
        for name, calls in kept_calls().items()
        if any(isinstance(kind_of(name, values, state, exactness), TensorKind) for values in calls)
    ]


@dataclass(frozen=True)
class Difference:
    """The difference (of 255) between an operation's results and the Pillow lane's, over all values of all its calls.

    Attributes:
        most: Largest difference; 256 if size or mode differ.
        mean: Mean difference.
        is_kept: Whether no more values than the table allows exceed its largest difference.
    """

    most: int
    mean: float
    is_kept: bool


def self_check(
    device: str,
    exactness: Exactness = "exact",
    sizes: Sequence[Size] = ((64, 48), (7, 129), (333, 250), (1, 1)),
    n_calls: int | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Difference]:
    """Measure the difference of each operation from the Pillow lane, on noise and on a picture.

    Args:
        device: The device, as torch names it.
        exactness: The contract.
        sizes: (width, height) of the images.
        n_calls: Number of kept calls to run per operation; None for all.
        names: The operations; None for all that the contract covers.

    Raises:
        ValueError: The machine does not have the device.
    """
    where = check_device(device)
    with precise(where):
        return {
            name: _summed(list(_differences(name, exactness, where, sizes, n_calls)))
            for name in names or operations_of(exactness)
        }


@cache
def broken_operations(device: str, exactness: Exactness) -> dict[str, str]:
    """Kornia operations that break the table's promise on this machine, for example with another version, and why."""
    broken = {}
    for name in operations_of(exactness):
        if not any("kornia" in kind.by for kind in KINDS[name]):
            continue
        try:
            found = self_check(device, exactness, ((40, 30),), 3, [name])[name]
            fault = "" if found.is_kept else f"differs by {found.most} of 255"
        except Exception as error:  # noqa: BLE001 - a function that moved, or takes other arguments
            fault = f"fails ({type(error).__name__}: {error})"
        if fault:
            broken[name] = f"{name}: Kornia {kornia.__version__} {fault}"
    return broken


def _summed(rows: Sequence[tuple[Differences, float, float]]) -> Difference:
    """Summarize rows (differences, largest allowed difference, share that may exceed it)."""
    found = np.concatenate([np.zeros(0, np.int64), *(row[0] for row in rows)])
    n_too_many = sum(int((row > most).sum()) - far * row.size for row, most, far in rows)
    return Difference(int(found.max(initial=0)), float(found.sum()) / max(1, found.size), n_too_many <= 0)


def _images(size: Size) -> list[Image.Image]:
    """Noise, and a smooth picture."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    small = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(noise), Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)]


def _differences(
    name: str, exactness: Exactness, device: torch.device, sizes: Sequence[Size], n_calls: int | None
) -> Iterator[tuple[Differences, float, float]]:
    for values in kept_calls()[name][:n_calls]:
        for size in sizes:
            for mode in OPERATIONS[name].modes:
                kind = kind_of(name, values, State(size, mode), exactness)
                if not isinstance(kind, str):
                    for image in _images(size):
                        found = differences(name, kind, image.convert(mode), values, device)
                        yield found, kind.most(values), kind.far(values)


def differences(name: str, kind: TensorKind, image: Image.Image, values: Values, device: torch.device) -> Differences:
    """Differences of all values of a call's result; empty if the library refuses it, 256 if size or mode differ."""
    try:
        expected = OPERATIONS[name].call(image, values)
    except (ValueError, TypeError, cv2.error):  # such as a color of three numbers for a gray image
        return np.zeros(0, np.int64)
    array = np.array(image)
    pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous().to(device)
    mine = to_pillow(kind.call(torch.stack([pixels, pixels]), [values] * 2)[1])
    if (mine.size, mine.mode) != (expected.size, expected.mode):
        return np.full(np.asarray(expected).size, 256)
    return np.abs(np.asarray(mine).astype(np.int64) - np.asarray(expected).astype(np.int64)).reshape(-1)
