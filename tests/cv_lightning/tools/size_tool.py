"""A simple model tool for tests. It must be importable because it runs in its own process."""

from __future__ import annotations

from typing import Any, ClassVar

from PIL import Image

from cv_lightning.tools import ModelTool
from cv_lightning.tools.parameters import ToolParameter, choice
from sandbox import ModelResult


class Size(ModelTool):
    """Says how large the image is."""

    name = "size"
    description = "Say how large the image is."
    parameters: ClassVar[dict[str, ToolParameter]] = {"unit": choice(default="pixels", options=("pixels", "rows"))}

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        return ModelResult(f"{image.width} x {image.height} {arguments['unit']}")
