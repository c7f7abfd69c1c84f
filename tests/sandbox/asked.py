"""One request to an executor, as most tests of code make it."""

from __future__ import annotations

from PIL import Image

from sandbox import Observation, ToolExecutor, ToolRequest
from tests.sandbox.machine import noise

IMAGE = noise(20, 12)


def run(
    executor: ToolExecutor, code: str, *given_images: Image.Image, index: int = 0, episode: str = ""
) -> Observation:
    return executor.execute([ToolRequest(code, list(given_images) or [IMAGE], index, episode)])[0]
