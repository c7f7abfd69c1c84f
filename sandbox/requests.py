"""What is known of requests before any of them runs: whether they can, and whether threads pay."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFile

from sandbox.images import as_rgb
from sandbox.types import Limits, Observation, ToolRequest

#: Pixels of a batch from which on threads pay.
_MANY_PIXELS = 1 << 20


def check_images(request: ToolRequest) -> None:
    """Read every image once; raises what a broken file raises, before anything is sent."""
    for image in request.images:
        as_rgb(image)


def refuse(request: ToolRequest, limits: Limits) -> Observation | None:
    """An observation for a request that cannot be run at all."""
    code, index, n_images = request.code, request.image_index, len(request.images)
    text = None
    if not isinstance(code, str):
        text = f"The code must be text, not {type(code).__name__}."
    elif not code.strip():
        text = "The code is empty: assign the new image to `result`, e.g. `result = image.rotate(90, expand=True)`."
    elif len(code) > limits.code_chars:
        text = f"The code is too long: {len(code)} characters; at most {limits.code_chars} are allowed."
    elif "\x00" in code:
        text = "The code holds a null byte, which Python does not read."
    elif not code.isascii() and any("\ud800" <= character <= "\udfff" for character in code):
        text = "The code is not valid Unicode text."
    elif n_images == 0:
        text = "There is no image to work on."
    elif isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_images:
        text = f"image_index is {index!r}; valid are 0 to {n_images - 1}."
    elif not all(isinstance(image, Image.Image) for image in request.images):
        text = "The images must be Pillow images."
    elif not all(map(min, (image.size for image in request.images))):
        text = f"Image {next(i for i, image in enumerate(request.images) if min(image.size) < 1)} has no pixels."
    return Observation("rejected", text=text) if text is not None else None


def is_worth_threads(requests: Sequence[ToolRequest]) -> bool:
    """Whether the images are many pixels, all of them in memory: two threads must not read one file."""
    if len(requests) < 2:
        return False
    images = [image for request in requests for image in request.images if isinstance(image, Image.Image)]
    if any(isinstance(image, ImageFile.ImageFile) for image in images):
        return False
    return sum(image.width * image.height for image in images) >= _MANY_PIXELS
