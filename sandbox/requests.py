"""Checks requests before any of them runs."""

from __future__ import annotations

from PIL import Image

from sandbox.images import as_rgb
from sandbox.types import Limits, ToolRequest


def check_images(request: ToolRequest) -> None:
    """Read every image once, before anything is sent; raises what a broken file raises."""
    for image in request.images:
        as_rgb(image)


def refuse(request: ToolRequest, limits: Limits) -> str | None:
    """The reason why a request cannot be run at all; None if it can."""
    code, index, n_images = request.code, request.image_index, len(request.images)
    if not isinstance(code, str):
        return f"The code must be text, not {type(code).__name__}."
    if not code.strip():
        return "The code is empty: assign the new image to `result`, e.g. `result = image.rotate(90, expand=True)`."
    if len(code) > limits.code_chars:
        return f"The code is too long: {len(code)} characters; at most {limits.code_chars} are allowed."
    if "\x00" in code:
        return "The code holds a null byte, which Python does not read."
    if not code.isascii() and any("\ud800" <= character <= "\udfff" for character in code):
        return "The code is not valid Unicode text."
    if n_images == 0:
        return "There is no image to work on."
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_images:
        return f"image_index is {index!r}; valid are 0 to {n_images - 1}."
    if not all(isinstance(image, Image.Image) for image in request.images):
        return "The images must be Pillow images."
    if not all(map(min, (image.size for image in request.images))):
        return f"Image {next(i for i, image in enumerate(request.images) if min(image.size) < 1)} has no pixels."
    return None
