"""Images in the form that lanes take and return."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from PIL import Image

from sandbox.messages import too_large
from sandbox.types import Limits


def view(buffer: Any, size: tuple[int, int]) -> Image.Image:
    """A read-only RGB image over 4-byte pixels in a buffer, without a copy."""
    return Image.fromarrow(Image.frombuffer("RGBX", size, buffer, "raw", "RGBX", 0, 1), "RGB", size)


def copy_into(buffer: Any, image: Image.Image) -> None:
    """Write an RGB image into a buffer, as 4-byte pixels."""
    image.load()
    view(buffer, image.size).im.paste(image.im, (0, 0, *image.size))


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as plain RGB pixels: 16-bit values scaled, transparency dropped, metadata (EXIF too) left behind."""
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    plain = image.convert("RGB")
    plain.info = {}
    return plain


def content_key(image: Image.Image) -> bytes:
    """The identity of an image: its size, mode and pixels. A `TensorImage` computes its key on its device."""
    own_key = getattr(image, "content_key", None)
    if own_key is not None:
        found: bytes = own_key()
        return found
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(repr((image.mode, image.size)).encode())
    return digest.digest()


def check_size(size: tuple[int, int], limits: Limits) -> str | None:
    """The reason why a result must not have this size (width, height); None if it may."""
    width, height = size
    if width < 1 or height < 1:
        return f"The result has no pixels: its size is {width}x{height}."
    if width * height > limits.result_megapixels * 1e6:
        return too_large(size, limits.result_megapixels)
    if max(size) >= limits.aspect * min(size):
        most = f"the longer side must be less than {limits.aspect:g} times the shorter"
        return f"The result is too thin: {width}x{height} pixels; {most}."
    return None


class Budget:
    """Memory in bytes that the results of one batch may take together; safe to share between threads.

    Args:
        limits: `batch_mb` is the whole budget.
    """

    def __init__(self, limits: Limits) -> None:
        self._most_mb = limits.batch_mb
        self._left = limits.batch_mb * 2**20
        self._lock = threading.Lock()

    def refuse(self, size: tuple[int, int], held: tuple[int, int] = (0, 0)) -> str | None:
        """Reserve the bytes of a result (width, height); if too few are left, returns the message for the policy.

        The bytes of an image of size `held`, which the result replaces, were reserved before.
        """
        with self._lock:
            n_bytes = max(0, 4 * (size[0] * size[1] - held[0] * held[1]))
            if n_bytes > self._left:
                return (
                    f"The result was dropped: with its {size[0]}x{size[1]} pixels, the results of this batch have more "
                    f"than the {self._most_mb} MB that `batch_mb` allows. Make a smaller image."
                )
            self._left -= n_bytes
        return None
