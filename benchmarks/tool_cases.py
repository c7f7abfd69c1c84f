"""The calls and pictures that `tool_execution.py` measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image

SIZES = {"224 px": (224, 224), "1 MP": (1024, 1024), "4 MP": (2048, 2048)}
BATCHES = (1, 16, 64, 256, 1024)

#: Single operations: (operation, values, raw OpenCV or None).
SINGLE: dict[str, tuple[str, tuple[Any, ...], Callable[[Any], Any] | None]] = {
    "rotate 90": ("orient", ("rotate_90",), lambda a: cv2.rotate(a, cv2.ROTATE_90_COUNTERCLOCKWISE)),
    "rotate 180": ("orient", ("rotate_180",), lambda a: cv2.rotate(a, cv2.ROTATE_180)),
    "mirror": ("orient", ("flip_horizontal",), lambda a: cv2.flip(a, 1)),
    "crop": ("Image.crop", ((10, 10, 200, 200),), lambda a: a[10:200, 10:200].copy()),
    "resize to 448": (
        "Image.resize",
        ((448, 448), None, None, None),
        lambda a: cv2.resize(a, (448, 448), interpolation=2),
    ),
    "rotate 10": ("Image.rotate", (10, 2, False, None, None, None), None),
    "contrast": ("ImageEnhance.Contrast", (1.5,), lambda a: cv2.convertScaleAbs(a, alpha=1.5, beta=-64)),
    "invert": ("ImageOps.invert", (), cv2.bitwise_not),
    "sharpen": ("ImageFilter.SHARPEN", (), lambda a: cv2.filter2D(a, -1, np.full((3, 3), -0.125) + np.eye(3))),
    "blur": ("ImageFilter.GaussianBlur", (2,), lambda a: cv2.GaussianBlur(a, (0, 0), 2)),
    "median 3": ("ImageFilter.MedianFilter", (3,), lambda a: cv2.medianBlur(a, 3)),
}
MOVES = ("rotate 90", "rotate 180", "mirror")

#: A mixed batch, typical for policies.
MIX = (
    "result = image.rotate(90, expand=True)",
    "result = ImageOps.mirror(image)",
    "result = image.rotate(180)",
    "result = image.crop((20, 20, 180, 160)).resize((480, 420))",
    "result = ImageEnhance.Contrast(image).enhance(1.5)",
    "result = image.convert('L')",
    "result = image.rotate(270, expand=True).crop((10, 10, 200, 200))",
    "result = image.filter(ImageFilter.SHARPEN)",
)


def pictures(size: tuple[int, int], n: int) -> list[Image.Image]:
    """RGB pictures of (width, height): smooth with added noise; at most 8 distinct ones, repeated as copies."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(min(n, 8)):
        small = Image.fromarray(generator.integers(0, 230, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + generator.integers(-12, 13, smooth.shape, dtype=np.int16), 0, 255)
        made.append(Image.fromarray(noisy.astype(np.uint8)))
    return [made[place % len(made)].copy() for place in range(n)]
