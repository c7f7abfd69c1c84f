"""A procedural world of text plates: exact ground truth for any index, no file, no download.

Every sample is a function of (seed, split, index): the splits draw from different streams of one counter-based generator, so that
training, validation and test never share a draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cv_lightning.data.orientation import transform_sample
from cv_lightning.errors import ConfigError
from cv_lightning.types import TRANSFORMS, Sample

Split = Literal["train", "validation", "test"]

#: The second word of every generator's key; two splits never share a stream.
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}

#: Characters without any symmetry, so that every orientation of a plate can be told from every other.
CHIRAL_ALPHABET = "124567FGJLPQR"

#: What was done to an image, as a weighted choice: "none" and the five orientations of the paper, equally often.
ORIENTATION_WEIGHTS = dict.fromkeys(
    ("none", "rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical"), 1.0
)


class SampleSource(ABC):
    """Where samples come from: any index of any split, reproducibly."""

    @abstractmethod
    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; `transforms` forces what is done to its image."""


def generator(seed: int, split: Split, index: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of one sample; `stream` separates uses (drawing it, writing its episode)."""
    return np.random.Generator(np.random.Philox(key=[(seed << 8) | (SPLITS[split] << 4) | stream, index]))


@dataclass(frozen=True)
class PlateWorld(SampleSource):
    """Plates with random text, dark on light, at a random place.

    Attributes:
        seed: Seed of the world.
        width: Image width in pixels.
        height: Image height in pixels.
        min_length: Fewest characters.
        max_length: Most characters.
        min_font_size: Smallest font size in pixels.
        max_font_size: Largest font size in pixels; text that would not fit is drawn as large as it fits.
        alphabet: Characters to draw from.
        question: The question, the same for every orientation.
        weights: How often each transform is chosen: "none" or a name of `TRANSFORMS` -> weight.
    """

    seed: int = 0
    width: int = 84
    height: int = 84
    min_length: int = 3
    max_length: int = 3
    min_font_size: int = 22
    max_font_size: int = 30
    alphabet: str = CHIRAL_ALPHABET
    question: str = "Read the text."
    weights: Mapping[str, float] = field(default_factory=lambda: dict(ORIENTATION_WEIGHTS))

    def __post_init__(self) -> None:
        unknown = set(self.weights) - {"none", *TRANSFORMS} | ({"crop"} & set(self.weights))
        if unknown or not any(weight > 0 for weight in self.weights.values()):
            raise ConfigError(
                f"world.weights: expected positive weights for {', '.join(ORIENTATION_WEIGHTS)} but got {dict(self.weights)}"
            )
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"world: expected 1 <= min_length <= max_length but got {self.min_length}, {self.max_length}"
            )
        if not 6 <= self.min_font_size <= self.max_font_size:
            raise ConfigError(
                f"world: expected 6 <= min_font_size <= max_font_size but got {self.min_font_size}, {self.max_font_size}"
            )
        if min(self.width, self.height) < 8 or not self.alphabet:
            raise ConfigError("world: expected images of at least 8 x 8 pixels and an alphabet that is not empty")

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index` of a split; `transforms` forces what is done to its image."""
        rng = generator(self.seed, split, index)
        if transforms is None:
            names, weights = list(self.weights), np.array(list(self.weights.values()))
            name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
            transforms = () if name == "none" else (name,)
        length = int(rng.integers(self.min_length, self.max_length + 1))
        text = "".join(self.alphabet[i] for i in rng.integers(0, len(self.alphabet), length))
        upright = Sample(
            id=f"plates-{self.seed}-{split}-{index}",
            question=self.question,
            images=(self._draw(text, rng),),
            answer=text,
            source="PlateWorld",
        )
        return transform_sample(upright, transforms)

    def _draw(self, text: str, rng: np.random.Generator) -> Image.Image:
        background = tuple(int(value) for value in rng.integers(196, 256, 3))
        ink = tuple(int(value) for value in rng.integers(0, 60, 3))
        size = int(rng.integers(self.min_font_size, self.max_font_size + 1))
        left, top, right, bottom = _bounds(text, size)
        while size > 6 and (right - left > self.width or bottom - top > self.height):
            size -= 1
            left, top, right, bottom = _bounds(text, size)
        x = int(rng.integers(0, max(1, self.width - (right - left) + 1)))
        y = int(rng.integers(0, max(1, self.height - (bottom - top) + 1)))
        image = Image.new("RGB", (self.width, self.height), background)
        ImageDraw.Draw(image).text((x - left, y - top), text, font=_font(size), fill=ink)
        return image


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Bold, which matplotlib ships."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ConfigError("The plates' font comes with matplotlib, which is not installed: pip install matplotlib")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)


def _bounds(text: str, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = _font(size).getbbox(text)
    return int(left), int(top), int(right), int(bottom)
