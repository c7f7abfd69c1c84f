"""A model tool in common use: it reads printed text with RapidOCR (PaddleOCR in ONNX, on the CPU)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cv_lightning.errors import ConfigError
from cv_lightning.tools.models import ModelTool
from sandbox import ModelResult

#: Larger images are reduced to this many pixels on the longer side, to bound the time and memory of a call.
_MAX_SIDE = 2000

_LINE = re.compile(r'\[(\d+), (\d+), (\d+), (\d+)\] (\d\.\d\d) (".*")')


@dataclass(frozen=True)
class TextLine:
    """A line of text in an image.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the image.
        score: Confidence of the model, 0 to 1.
        text: Its characters.
    """

    box: tuple[int, int, int, int]
    score: float
    text: str

    def write(self) -> str:
        """The line as the policy sees it."""
        return f"{list(self.box)} {self.score:.2f} {json.dumps(self.text, ensure_ascii=False)}"


def parse_lines(observation: str) -> list[TextLine]:
    """The lines that `read_text` wrote into an observation; a line that was cut off is left out."""
    lines = []
    for found in map(_LINE.fullmatch, observation.split("\n")):
        if found is not None:
            x1, y1, x2, y2 = map(int, found.groups()[:4])
            lines.append(TextLine((x1, y1, x2, y2), float(found[5]), json.loads(found[6])))
    return lines


class ReadText(ModelTool):
    """Finds lines of printed text and reads them.

    The networks read text that is rotated by 90, 180 or 270 degrees, but not mirrored text. They come with the package,
    so nothing is downloaded.

    Raises:
        ConfigError: The extra `ocr` is not installed.
    """

    name = "read_text"
    description = "Read the printed text in the image: a box in pixels, a confidence and the text for each line."
    wall_s = 30.0

    def __init__(self) -> None:
        for package in ("rapidocr", "onnxruntime"):
            if find_spec(package) is None:
                raise ConfigError(f"read_text: {package} is not installed: pip install 'cv-lightning[ocr]'")

    def load(self) -> None:
        """Load the networks; each runs in one thread, because several such processes may share a machine."""
        cv2.setNumThreads(1)
        rapidocr = import_module("rapidocr")
        weights = Path(str(rapidocr.__file__)).parent / "models"
        settings: dict[str, Any] = {
            "Global.log_level": "error",
            "Global.max_side_len": _MAX_SIDE,
            "Det.limit_type": "max",  # the default enlarges small images eightfold without reading more text
            "Det.limit_side_len": _MAX_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        for task in ("det", "cls", "rec"):  # a file given by path is never downloaded
            settings[f"{task.capitalize()}.model_path"] = str(_only([*weights.glob(f"*_{task}_*.onnx")], task))
        self._reader: Any = rapidocr.RapidOCR(params=settings)
        self(Image.new("RGB", (64, 64), "white"))  # RapidOCR loads each network at its first use

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """One line of output for each line of text in the image."""
        found = self._reader(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
        if found.txts is None or found.boxes is None:
            return ModelResult()
        lines = []
        for corners, score, text in zip(found.boxes, found.scores, found.txts, strict=True):
            (x1, y1), (x2, y2) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
            lines.append(TextLine((int(x1), int(y1), int(x2), int(y2)), float(score), text).write())
        return ModelResult("\n".join(lines))


def _only(files: Sequence[Path], task: str) -> Path:
    if len(files) != 1:
        raise FileNotFoundError(f"rapidocr: expected one network for {task!r} but got {[file.name for file in files]}")
    return files[0]
