"""A procedural world of text plates: exact answers for any index, without files or downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cv_lightning.data.orientation import transform_sample
from cv_lightning.data.source import (
    ORIENTATION_WEIGHTS,
    SampleSource,
    Split,
    check_seed,
    check_weights,
    choose_transforms,
    generator,
)
from cv_lightning.data.worlds.page import font_file
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample

#: Characters without any symmetry, so that all orientations of a plate can be distinguished.
CHIRAL_ALPHABET = "24567FGJLPR"

#: Smallest font in pixels that a plate may be shrunk to.
_MIN_FONT_SIZE = 6

#: A character that no font has: it is drawn with the glyph for missing characters.
_UNASSIGNED = "\U0010ffff"


@dataclass(frozen=True)
class PlateWorld(SampleSource):
    """Plates with random text, dark on light, at a random place.

    Attributes:
        seed: Seed of the world.
        width: Image width in pixels.
        height: Image height in pixels.
        min_length: Minimum number of characters.
        max_length: Maximum number of characters.
        min_font_size: Smallest font size in pixels.
        max_font_size: Largest font size in pixels; text that does not fit is drawn in the largest size that fits.
        alphabet: Characters of the texts.
        question: The question, the same for every orientation.
        weights: Frequency of each transform: "none" or a name of `TRANSFORMS` -> weight.
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
        check_weights("world.weights", self.weights)
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"world: expected 1 <= min_length <= max_length, got {self.min_length}, {self.max_length}"
            )
        if not _MIN_FONT_SIZE <= self.min_font_size <= self.max_font_size:
            raise ConfigError(
                f"world: expected {_MIN_FONT_SIZE} <= min_font_size <= max_font_size, "
                f"got {self.min_font_size}, {self.max_font_size}"
            )
        if min(self.width, self.height) < 8 or not self.alphabet:
            raise ConfigError(
                "world: expected images of at least 8 x 8 pixels and an alphabet that is not empty, got "
                f"{self.width} x {self.height}, {self.alphabet!r}"
            )
        check_seed("world.seed", self.seed)
        self._check_characters()

    def _check_characters(self) -> None:
        missing = sorted(character for character in set(self.alphabet) if not _has_glyph(character))
        if missing:
            raise ConfigError(
                f"world.alphabet: the font DejaVu Sans Bold has no glyph for {', '.join(map(repr, missing))}"
            )
        widest = max(self.alphabet, key=lambda character: _font(_MIN_FONT_SIZE).getlength(character))
        left, _, right, _ = _bounds(widest * self.max_length, _MIN_FONT_SIZE)
        _, top, _, bottom = _bounds(self.alphabet, _MIN_FONT_SIZE)
        if right - left > self.width or bottom - top > self.height:
            raise ConfigError(
                f"world: {self.max_length} characters need {right - left} x {bottom - top} pixels in the smallest font "
                f"({_MIN_FONT_SIZE} px), but images have {self.width} x {self.height}. "
                "Raise width and height or lower max_length."
            )

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index` of a split; `transforms` sets its transforms."""
        rng = generator(self.seed, split, index)
        if transforms is None:
            transforms = choose_transforms(rng, self.weights)
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
        while size > _MIN_FONT_SIZE and (right - left > self.width or bottom - top > self.height):
            size -= 1
            left, top, right, bottom = _bounds(text, size)
        x = int(rng.integers(0, max(1, self.width - (right - left) + 1)))
        y = int(rng.integers(0, max(1, self.height - (bottom - top) + 1)))
        image = Image.new("RGB", (self.width, self.height), background)
        ImageDraw.Draw(image).text((x - left, y - top), text, font=_font(size), fill=ink)
        return image


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file("DejaVuSans-Bold"), size)


def _has_glyph(character: str) -> bool:
    mask, unknown = (_font(24).getmask(c) for c in (character, _UNASSIGNED))
    return mask.getbbox() is not None and (mask.size != unknown.size or bytes(mask) != bytes(unknown))


def _bounds(text: str, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = _font(size).getbbox(text)
    return int(left), int(top), int(right), int(bottom)
