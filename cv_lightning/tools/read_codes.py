"""A small model tool that comes with the project: it reads QR codes with OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image

from cv_lightning.tools.models import ModelTool
from sandbox import ModelResult

#: Scales at which the image is searched, up to an enlarged size of `_MAX_PIXELS`.
_SCALES = (1, 2, 3)
_MAX_PIXELS = 8_000_000
_MAX_CODES = 32


class ReadCodes(ModelTool):
    """Finds QR codes in any orientation and reports their boxes and texts.

    OpenCV overlooks small codes and codes beside others. So each code found is painted over, and the image is searched
    again, also enlarged.
    """

    name = "read_codes"
    description = "Find QR codes in the image and read them."

    def load(self) -> None:
        """Create the detector."""
        self._detector: Any = cv2.QRCodeDetector()

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """One line for each code: its box in pixels of the image, and its text."""
        pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
        lines = []
        for scale in _SCALES:
            if scale > 1 and image.width * image.height * scale**2 > _MAX_PIXELS:
                break
            enlarged = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            for text, corners in self._all(enlarged):
                _paint_over(pixels, corners / scale)
                (x1, y1), (x2, y2) = np.floor(corners.min(axis=0) / scale), np.ceil(corners.max(axis=0) / scale)
                lines.append(f"[{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}]: {text!r}")
        return ModelResult("\n".join(lines))

    def _all(self, pixels: MatLike) -> Iterator[tuple[str, NDArray[Any]]]:
        """Texts and corners [4, 2] of codes; found codes are painted over in `pixels`."""
        for _ in range(_MAX_CODES):
            found = self._some(pixels)
            for text, corners in found:
                _paint_over(pixels, corners)
                yield text, corners
            if not found:
                return

    def _some(self, pixels: MatLike) -> list[tuple[str, NDArray[Any]]]:
        for detect in (self._detector.detectAndDecodeMulti, self._one):
            try:
                _, texts, corners, _ = detect(pixels)
            except cv2.error:  # OpenCV 5.0 fails on some patterns that are not codes
                continue
            found = [
                (text, place) for text, place in zip(texts, () if corners is None else corners, strict=False) if text
            ]
            if found:
                return found
        return []

    def _one(self, pixels: MatLike) -> tuple[bool, tuple[str], Any, Any]:
        """Detect one code and return it like `detectAndDecodeMulti`; each method finds codes that the other misses."""
        text, corners, straight = self._detector.detectAndDecode(pixels)
        return bool(text), (text,), corners, straight


def _paint_over(pixels: MatLike, corners: NDArray[Any]) -> None:
    center = corners.mean(axis=0)
    cv2.fillConvexPoly(pixels, np.round(center + 1.15 * (corners - center)).astype(np.int32), (255, 255, 255))
