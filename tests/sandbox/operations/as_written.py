"""Runs an operation twice: through the table, and as the Python statement that the table writes for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from sandbox.operations.operation import Operation
from sandbox.operations.table import OPERATIONS, write_statement
from tests.sandbox.operations.edges import calls


def outcome(call: Callable[[], Image.Image]) -> Any:
    """Mode, size and pixels, or the type of the error."""
    try:
        image = call()
    except Exception as error:  # noqa: BLE001 - a call at the edges may fail in any way, as long as both do
        return type(error)
    return image.mode, image.size, image.tobytes()


def written(operation: Operation, image: Image.Image) -> Image.Image:
    """The result of the operation's statement; the text is the table's own."""
    names: dict[str, Any] = {"x": image, "cv2": cv2, "np": np, "Image": Image, "ImageDraw": ImageDraw}
    names |= {"ImageEnhance": ImageEnhance, "ImageFilter": ImageFilter, "ImageOps": ImageOps}
    exec(write_statement(operation, "x"), names)
    result: Image.Image = names["x"]
    return result


def differing(name: str, n_calls: int) -> list[Any]:
    """The calls at the edges whose result differs from that of their statement."""
    return [
        (values, image.size)
        for values, image in calls(name, n_calls)
        if outcome(lambda: OPERATIONS[name].call(image, values))  # noqa: B023 - it is called at once
        != outcome(lambda: written(Operation(name, values), image.copy()))  # noqa: B023
    ]
