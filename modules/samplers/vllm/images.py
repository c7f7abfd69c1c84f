"""Prepares images for an engine: resized as the policy sees them, and encoded once."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from cv_lightning.types import ViewedImage
from sandbox.threads import count_cores

#: Maximum bytes of encoded images that are kept for later turns and steps.
_KEPT_BYTES = 1 << 30


class EncodedImages:
    """Encodes each distinct image once, in threads, so that requests without it do not wait.

    Args:
        resize: Maps an image to a Pillow image of the size at which the policy sees it. The engine then resizes
            nothing; its own resize rounds some values differently.
        scale: Name of the sizes that `resize` gives. Servers keep images by name, and another run may resize
            differently.
        kept_bytes: Maximum bytes of encoded images; beyond it, the oldest are dropped first.
    """

    def __init__(self, resize: Callable[[Image.Image], Image.Image], scale: str, kept_bytes: int = _KEPT_BYTES) -> None:
        self._resize = resize
        self._scale = scale
        self._kept_bytes = kept_bytes
        self._pool = ThreadPoolExecutor(max(1, count_cores() // 2), "engine-images")
        self._urls: dict[bytes, Future[str]] = {}

    def name(self, viewed: ViewedImage) -> str:
        """An image's name on servers."""
        return f"{viewed.key.hex()}-{self._scale}"

    async def url(self, viewed: ViewedImage) -> str:
        """The image as a `data:` URL."""
        made = self._urls.pop(viewed.key, None)
        if made is None:
            made = self._pool.submit(self._encode, viewed.image)
            self._drop_oldest()
        self._urls[viewed.key] = made
        return await asyncio.shield(asyncio.wrap_future(made))  # others may wait for it too

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, image: Image.Image) -> str:
        buffer = io.BytesIO()
        self._resize(image).save(buffer, "PNG", compress_level=1)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    def _drop_oldest(self) -> None:
        sizes = {key: len(made.result()) for key, made in self._urls.items() if made.done() and not made.exception()}
        excess = sum(sizes.values()) - self._kept_bytes
        for key, size in sizes.items():
            if excess <= 0:
                break
            del self._urls[key]
            excess -= size
