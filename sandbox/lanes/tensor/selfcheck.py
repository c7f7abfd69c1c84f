"""Compares a device with the Pillow lane, operation by operation, with nothing but this package and its libraries."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image

from sandbox.lanes.tensor.batch import check_device
from sandbox.lanes.tensor.images import to_pillow
from sandbox.lanes.tensor.table import TENSOR_OPERATIONS, why_declined
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State, Values
from sandbox.operations.table import OPERATIONS

_TABLE = Table(tuple((7 * value + 3) % 256 for value in range(256)), "uint8")
_CROSS = Table(((0, 1, 0), (1, 1, 1), (0, 1, 0)), "uint8")
_ODD_ONE = Table(((0, 1), (1, 1), (0, 1), (1, 0)), "uint8")
_SHARPER = Table(((0, -1, 0), (-1, 5, -1), (0, -1, 0)), "int64")
#: Calls of each operation; one that is not here takes no arguments.
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
        *(((57, 91), method, None, None) for method in range(8)),
        ((300, 20), 3, (2.5, 3, 60, 40.25), None),
        ((1, 700), 1, None, None),
    ],
    "Image.convert": [("L",), ("RGB",)],
    "ImageOps.pad": [((90, 40), 3, "blue", (0.2, 0.7)), ((40, 90), 2, None, (0.5, 0.5))],
    "ImageOps.expand": [((1, 2, 3, 4), 7), (5, "red")],
    "ImageOps.autocontrast": [(0, None, None, False), (7.5, 3, None, True)],
    "ImageOps.posterize": [(bits,) for bits in (1, 4, 8)],
    "ImageOps.solarize": [(128,), (17,)],
    **{
        f"ImageEnhance.{name}": [(0.0,), (0.35,), (1.7,), (-2.0,)]
        for name in ("Brightness", "Contrast", "Color", "Sharpness")
    },
    "ImageFilter.GaussianBlur": [(0.4,), (2,), (11.3,)],
    "ImageFilter.BoxBlur": [(0.5,), (3,), (20.75,)],
    "ImageFilter.UnsharpMask": [(2, 150, 3), (0.7, 900, 0)],
    **{f"ImageFilter.{name}Filter": [(3,), (5,), (9,)] for name in ("Median", "Min", "Max")},
    "cv2.medianBlur": [(3,), (7,)],
    "cv2.resize": [((90, 31), 0, 0, 0), ((20, 300), 0, 0, 0), (None, 1.7, 0.6, 0)],
    "cv2.GaussianBlur": [((0, 0), 2.2, 0), ((5, 5), 1.5, 0), ((9, 3), 0, 0), ((1, 41), 7.7, 0.6), ((99, 99), 20, 30)],
    "cv2.convertScaleAbs": [(1.3, -20), (-2.5, 3.7)],
    "cv2.threshold": [(100, 200, kind) for kind in (*range(5), 8, 9)],
    "ImageFilter.RankFilter": [(3, 0), (3, 6), (5, 20)],
    "ImageFilter.Kernel": [((3, 3), (1, -2, 3, 0.5, 9, -4, 0, 1, 1), None, 2.5), ((5, 5), tuple(range(25)), 70, 0)],
    "Image.getchannel": [(0,), (2,)],
    "Image.paste": [((70, 50), "red", (3, -4)), ((400, 10), 7, (0, 0))],
    "cv2.LUT": [(_TABLE,)],
    "cv2.copyMakeBorder": [(1, 2, 3, 4, kind, (9, 8, 7)) for kind in (0, 1, 2, 4)],
    "cv2.erode": [(None, 1), (_CROSS, 2)],
    "cv2.dilate": [(_CROSS, 1), (_ODD_ONE, 3)],
    "cv2.morphologyEx": [(kind, _CROSS, 2) for kind in range(7)],
    "cv2.filter2D": [(-1, _SHARPER), (-1, _ODD_ONE)],
}


def self_check(
    device: str, sizes: Sequence[tuple[int, int]] = ((64, 48), (7, 129), (333, 250), (1, 1))
) -> dict[str, int]:
    """The largest difference from the Pillow lane, of 255, of each operation on noise and on a picture.

    Args:
        device: As torch names it.
        sizes: (width, height) of the images.

    Raises:
        ValueError: The device is not there.
    """
    where = check_device(device)
    worst = dict.fromkeys(TENSOR_OPERATIONS, 0)
    for name in TENSOR_OPERATIONS:
        for values in CALLS.get(name, [()]):
            for size in sizes:
                for mode in OPERATIONS[name].modes:
                    if why_declined(name, values, State(size, mode)) is None:
                        images = [image.convert(mode) for image in _images(size)]
                        worst[name] = max(worst[name], _difference(name, images, values, where))
    return worst


def _images(size: tuple[int, int]) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    small = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(noise), Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)]


def _tensor(image: Image.Image, device: torch.device) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous().to(device)


def _difference(name: str, images: Sequence[Image.Image], values: Values, device: torch.device) -> int:
    """Largest difference; 256 where size or mode differ. A call that the library refuses has nothing to compare."""
    try:
        expected = [OPERATIONS[name].call(image, values) for image in images]
    except (ValueError, TypeError, cv2.error):
        return 0
    batch = torch.stack([_tensor(image, device) for image in images])
    worst = 0
    for result, image in zip(TENSOR_OPERATIONS[name].call(batch, [values] * len(images)), expected, strict=True):
        mine = to_pillow(result)
        if (mine.size, mine.mode) != (image.size, image.mode):
            return 256
        worst = max(worst, int(np.abs(np.asarray(mine).astype(int) - np.asarray(image).astype(int)).max(initial=0)))
    return worst
