"""Compares a device with the Pillow lane, operation by operation, with nothing but this package and its libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import kornia
import numpy as np
import torch
from PIL import Image

from sandbox.geometry import Size
from sandbox.lanes.tensor.batch import check_device, precise
from sandbox.lanes.tensor.images import to_pillow
from sandbox.lanes.tensor.table import CLOSE, EXACT, TensorKind, kind_of, operations_of
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State, Values
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness

_TABLE = Table(tuple((7 * value + 3) % 256 for value in range(256)), "uint8")
_CROSS = Table(((0, 1, 0), (1, 1, 1), (0, 1, 0)), "uint8")
_ODD_ONE = Table(((0, 1), (1, 1), (0, 1), (1, 0)), "uint8")
_SHARPER = Table(((0, -1, 0), (-1, 5, -1), (0, -1, 0)), "int64")
_FRACTIONS = Table(((0.1, 0.2), (0.3, 0.4)), "float64")
_WARP = Table(((0.9, -0.3, 14.0), (0.2, 1.1, -22.5)), "float64")
_TILT = Table(((0.9, -0.3, 4.0), (0.2, 1.1, -2.5), (0.003, -0.002, 1.0)), "float64")
_TILTED = (1, 0.1, 2, 0.2, 0.9, 1, 0.001, 0.002)
#: Calls of each operation, the usual one first; one that is not here takes no arguments.
CALLS: dict[str, Sequence[Values]] = {
    "orient": [(name,) for name in ("rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "transverse")],
    "Image.rotate": [
        (12.5, 0, True, None, None, "red"),
        (-33, 2, False, (20, 30.5), (3, -4), None),
        (200.25, 3, True, None, None, (1, 2, 3)),
        (180, 0, False, (20, 30), None, None),
    ],
    "Image.crop": [((5, 6, 40, 30),), ((-7, 3, 500, 60),)],
    "Image.resize": [
        *(((57, 91), method, None, None) for method in (3, 0, 1, 2, 4, 5, 6, 7)),
        ((300, 20), 3, (2.5, 3, 60, 40.25), None),
        ((1, 700), 1, None, None),
    ],
    "Image.convert": [("L",), ("RGB",)],
    "Image.transform": [
        ((50, 40), method, data, resample, 1, "red")
        for resample in (2, 0, 3)
        for method, data in ((2, _TILTED), (0, _TILTED[:6]), (1, (1, 2, 19.5, 17)), (3, (0, 0, 1, 20, 22, 19, 20, 1)))
    ],
    "ImageOps.pad": [((90, 40), 3, "blue", (0.2, 0.7)), ((40, 90), 2, None, (0.5, 0.5))],
    "ImageOps.expand": [((1, 2, 3, 4), 7), (5, "red")],
    "ImageOps.autocontrast": [(0, None, None, False), (7.5, 3, None, True)],
    "ImageOps.posterize": [(bits,) for bits in (4, 1, 8)],
    "ImageOps.solarize": [(128,), (17,)],
    **{
        f"ImageEnhance.{name}": [(1.7,), (0.0,), (0.35,), (-2.0,)]
        for name in ("Brightness", "Contrast", "Color", "Sharpness")
    },
    "ImageFilter.GaussianBlur": [(2,), (0.4,), (11.3,)],
    "ImageFilter.BoxBlur": [(3,), (0.5,), (20.75,)],
    "ImageFilter.UnsharpMask": [(2, 150, 3), (0.7, 200, 0)],
    **{f"ImageFilter.{name}Filter": [(3,), (5,), (9,)] for name in ("Median", "Min", "Max")},
    "cv2.medianBlur": [(3,), (7,)],
    "cv2.resize": [((90, 31), 0, 0, kind) for kind in range(5)] + [((20, 13), 0, 0, 3), (None, 1.7, 0.6, 0)],
    "cv2.blur": [((3, 3),), ((5, 2),), ((1, 9),)],
    "cv2.bilateralFilter": [(9, 75, 75), (5, 20.5, 3)],
    "cv2.GaussianBlur": [((0, 0), 2.2, 0), ((5, 5), 1.5, 0), ((9, 3), 0, 0), ((1, 41), 7.7, 0.6), ((99, 99), 20, 30)],
    "cv2.convertScaleAbs": [(1.3, -20), (-2.5, 3.7)],
    "cv2.threshold": [(100, 200, kind) for kind in (*range(5), 8, 9)],
    "cv2.adaptiveThreshold": [(255, method, kind, 11, 2) for method in (0, 1) for kind in (0, 1)],
    "cv2.createCLAHE": [(2.0, (8, 8)), (40.0, (3, 5))],
    "cv2.Canny": [(50, 150), (200, 20.5)],
    "cv2.warpAffine": [(_WARP, (70, 60), flags, border, 9) for flags in (1, 0, 2, 3) for border in (0, 1)],
    "cv2.warpPerspective": [(_TILT, (70, 60), flags, border, 9) for flags in (1, 0, 2) for border in (0, 1)],
    "cv2.Sobel": [(-1, 1, 0, 3), (-1, 0, 1, 5), (-1, 2, 1, 7)],
    "cv2.Laplacian": [(-1, side) for side in (1, 3, 5, 7)],
    "ImageFilter.Kernel": [((3, 3), (1, -2, 3, 0.5, 9, -4, 0, 1, 1), None, 2.5), ((5, 5), tuple(range(25)), 70, 0)],
    "Image.getchannel": [(0,), (2,)],
    "Image.paste": [((70, 50), "red", (3, -4)), ((400, 10), 7, (0, 0))],
    "cv2.LUT": [(_TABLE,)],
    "cv2.copyMakeBorder": [(1, 2, 3, 4, kind, (9, 8, 7)) for kind in (0, 1, 2, 4)],
    "cv2.erode": [(None, 1), (_CROSS, 2)],
    "cv2.dilate": [(_CROSS, 1), (_ODD_ONE, 3)],
    "cv2.morphologyEx": [(kind, _CROSS, 2) for kind in range(7)],
    "cv2.filter2D": [(-1, _SHARPER), (-1, _ODD_ONE), (-1, _FRACTIONS)],
}


@dataclass(frozen=True)
class Difference:
    """How far an operation's results are from the Pillow lane's, over all values of all its calls, of 255.

    Attributes:
        most: Largest difference; 256 if size or mode differ.
        mean: Mean difference.
        beyond: Share of values that differ by more than the table's `most`.
        allowed: The largest share that the table allows.
    """

    most: int = 0
    mean: float = 0.0
    beyond: float = 0.0
    allowed: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether the table's promise is kept."""
        return self.beyond <= self.allowed


def self_check(
    device: str,
    exactness: Exactness = "exact",
    sizes: Sequence[Size] = ((64, 48), (7, 129), (333, 250), (1, 1)),
    n_calls: int | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Difference]:
    """The difference of each operation from the Pillow lane, on noise and on a picture.

    Args:
        device: As torch names it.
        exactness: The contract.
        sizes: (width, height) of the images.
        n_calls: How many of an operation's `CALLS`; all if None.
        names: The operations; all that the contract does if None.

    Raises:
        ValueError: The device is not there.
    """
    where = check_device(device)
    with precise(where):
        return {
            name: _summed(_differences(name, exactness, where, sizes, n_calls))
            for name in names or operations_of(exactness)
        }


@lru_cache
def broken_operations(device: str, exactness: Exactness) -> dict[str, str]:
    """Those operations of Kornia that do not keep the table's promise on this machine, and why: another version's."""
    broken = {}
    for name in operations_of(exactness):
        rows = [rows[name] for rows in (CLOSE, EXACT) if name in rows]
        if not any("kornia" in kind.backend for kind in rows):
            continue
        try:
            found = self_check(device, exactness, ((40, 30),), 1, [name])[name]
            fault = "" if found.is_kept else f"differs by {found.most} of 255"
        except Exception as error:  # noqa: BLE001 - a function that moved, or takes other arguments
            fault = f"fails ({type(error).__name__}: {error})"
        if fault:
            broken[name] = f"{name}: Kornia {kornia.__version__} {fault}"
    return broken


def _images(size: Size) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    small = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(noise), Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)]


def _summed(rows: Iterator[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], float, float]]) -> Difference:
    most, total, n_values, beyond, n_allowed = 0, 0, 0, 0, 0.0
    for difference, limit, far in rows:
        most = max(most, int(difference.max(initial=0)))
        total, n_values = total + int(difference.sum()), n_values + difference.size
        beyond, n_allowed = beyond + int((difference > limit).sum()), n_allowed + far * difference.size
    n_values = max(n_values, 1)
    return Difference(most, total / n_values, beyond / n_values, n_allowed / n_values)


def _differences(
    name: str, exactness: Exactness, device: torch.device, sizes: Sequence[Size], n_calls: int | None
) -> Iterator[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], float, float]]:
    """Differences of each call on each image, and the most and the share beyond it that the table allows."""
    for values in CALLS.get(name, [()])[:n_calls]:
        for size in sizes:
            for mode in OPERATIONS[name].modes:
                kind = kind_of(name, values, State(size, mode), exactness)
                if not isinstance(kind, str):
                    for image in _images(size):
                        yield from _difference(name, kind, image.convert(mode), values, device)


def _difference(
    name: str, kind: TensorKind, image: Image.Image, values: Values, device: torch.device
) -> Iterator[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], float, float]]:
    """Nothing of a call that the library refuses, as a colour of three numbers for a gray image."""
    try:
        expected = OPERATIONS[name].call(image, values)
    except (ValueError, TypeError, cv2.error):
        return
    array = np.array(image)
    pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous().to(device)
    mine = to_pillow(kind.call(torch.stack([pixels, pixels]), [values] * 2)[1])
    if (mine.size, mine.mode) != (expected.size, expected.mode):
        yield np.full(1, 256), kind.most, 0.0
        return
    difference = np.abs(np.asarray(mine).astype(np.int64) - np.asarray(expected).astype(np.int64))
    yield difference, kind.most, kind.far(values)
