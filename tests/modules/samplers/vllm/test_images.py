"""Images for the engine are encoded once."""

from __future__ import annotations

import asyncio
import base64
import io

from PIL import Image

from cv_lightning.types import ViewedImage
from modules.samplers.vllm.images import EncodedImages
from tests.modules.helpers import noise, small_policy


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def test_pixels_are_those_that_the_policy_sees() -> None:
    patcher = small_policy().patcher
    image = noise(100, 75)
    images = EncodedImages(patcher.resized, "size")
    sent = decoded(asyncio.run(images.url(ViewedImage(image))))
    assert sent.size == patcher.target(image.size) != image.size
    assert sent.tobytes() == image.resize(sent.size, Image.Resampling.BICUBIC).tobytes()


def test_equal_images_are_encoded_once_and_the_oldest_are_dropped() -> None:
    seen: list[Image.Image] = []

    def resize(image: Image.Image) -> Image.Image:
        seen.append(image)
        return image

    async def ask(images: EncodedImages, numbers: list[int]) -> list[str]:
        return await asyncio.gather(*(images.url(ViewedImage(noise(seed=number))) for number in numbers))

    images = EncodedImages(resize, "size", kept_bytes=60_000)  # room for two of these
    first = asyncio.run(ask(images, [0, 0, 1, 0]))
    assert first[0] == first[1] == first[3] != first[2]
    assert len(seen) == 2
    asyncio.run(ask(images, [2]))
    asyncio.run(ask(images, [3]))
    asyncio.run(ask(images, [3, 1]))  # 0 was used later than 1
    assert len(seen) == 5


def test_names_tell_content_and_size() -> None:
    image = ViewedImage(noise())
    one, other = (EncodedImages(lambda image: image, scale) for scale in ("28-784", "28-1568"))
    assert one.name(image) == one.name(ViewedImage(noise())) != one.name(ViewedImage(noise(seed=1)))
    assert one.name(image) != other.name(image)
