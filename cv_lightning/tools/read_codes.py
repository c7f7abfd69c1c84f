"""A tool that is a model, small enough to come with the project: it reads QR codes and barcodes, by OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from cv_lightning.tools.models import ModelTool
from sandbox import ModelResult


class ReadCodes(ModelTool):
    """Finds QR codes and barcodes and says where they are and what they hold; a mirrored one holds nothing."""

    name = "read_codes"
    description = "Find QR codes and barcodes in the image and read them."

    def load(self) -> None:
        """Make the detectors."""
        self._codes: Any = cv2.QRCodeDetector()
        self._bars: Any = cv2.barcode.BarcodeDetector()

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """One line for each code: its kind, its box in pixels of the image, its text."""
        pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
        lines = []
        for kind, detector in (("QR code", self._codes), ("barcode", self._bars)):
            _, texts, corners, _ = detector.detectAndDecodeMulti(pixels)
            for text, points in zip(texts, () if corners is None else corners, strict=False):
                (x1, y1), (x2, y2) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
                found = repr(text) if text else "cannot be read"
                lines.append(f"{kind} in [{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}]: {found}")
        return ModelResult("\n".join(lines))
