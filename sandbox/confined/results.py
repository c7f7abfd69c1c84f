"""Makes an RGB image of any result that a snippet left; runs in the worker."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


class ResultError(Exception):
    """The result is no image; the message says what it is and how to fix that."""


def to_image(value: Any, name: str) -> Image.Image:
    """The result as an RGB image.

    Args:
        value: A Pillow image, or an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): bool, any integers
            (clipped to 0..255), or floats (in [0, 1] scaled by 255, else clipped to 0..255).
        name: The name that holds the result, for messages.

    Raises:
        ResultError: The result is neither.
    """
    if isinstance(value, Image.Image):
        return _from_pillow(value)
    if isinstance(value, np.ndarray):
        return Image.fromarray(_pixels(value, name))
    raise ResultError(
        f"`{name}` is of type {type(value).__name__}: assign a Pillow image or a NumPy array to `result`."
    )


def _from_pillow(image: Image.Image) -> Image.Image:
    if min(image.size) < 1:
        raise ResultError(f"The result has no pixels: its size is {image.width}x{image.height}.")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_pixels(np.asarray(image), "result")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The array as uint8 of shape (H, W, 3)."""
    if array.dtype.kind not in "buif":
        raise ResultError(f"`{name}` is an array of {array.dtype}: use uint8, or floats in [0, 1].")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ResultError(f"`{name}` is an array of shape {array.shape}: use (height, width) or (height, width, 3).")
    if array.size == 0:
        raise ResultError(f"The result has no pixels: its shape is {array.shape}.")
    if array.ndim == 3:
        array = array[:, :, :3]
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        array = _from_floats(array, name)
    elif array.dtype != np.uint8:
        array = array.clip(0, 255).astype(np.uint8)
    return np.stack([array] * 3, axis=-1) if array.ndim == 2 else np.ascontiguousarray(array)


def _from_floats(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if not np.isfinite(array).all():
        raise ResultError(f"`{name}` holds values that are not finite (NaN or infinity).")
    scale = 255 if array.min() >= 0 and array.max() <= 1 else 1
    return (array * scale).round().clip(0, 255).astype(np.uint8)
