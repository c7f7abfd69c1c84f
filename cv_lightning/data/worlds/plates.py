"""A procedural world of text plates: exact ground truth for any index, no file, no download.

Every sample is a function of (seed, split, index): the splits draw from different streams of one counter-based
generator, so that training, validation and test never share a draw.
"""

from __future__ import annotations

import math
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
from cv_lightning.types import Sample

Split = Literal["train", "validation", "test"]

#: The second word of every generator's key; two splits never share a stream.
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}

#: Characters without any symmetry, so that every orientation of a plate can be told from every other.
CHIRAL_ALPHABET = "24567FGJLPR"

#: What was done to an image, as a weighted choice: "none" and the five orientations of the paper, equally often.
ORIENTATION_WEIGHTS = dict.fromkeys(
    ("none", "rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical"), 1.0
)


#: Smallest font in pixels that a plate may be shrunk to.
_MIN_FONT_SIZE = 6

#: No font draws this one: its picture is the one for characters that are missing.
_UNASSIGNED = "\U0010ffff"


class SampleSource(ABC):
    """Where samples come from: any index of any split, reproducibly."""

    @abstractmethod
    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; `transforms` forces what is done to its image."""

    def size(self, split: Split) -> int | None:
        """How many different samples a split has; None where they never end."""
        return None


def check_weights(name: str, weights: Mapping[str, float], known: Sequence[str] = tuple(ORIENTATION_WEIGHTS)) -> None:
    """Raise `ConfigError` unless `weights` holds known names with weights of at least 0, one of them positive."""
    is_known = set(weights) <= set(known) and all(math.isfinite(weight) and weight >= 0 for weight in weights.values())
    if not is_known or not any(weights.values()):
        raise ConfigError(
            f"{name}: expected weights of at least 0, not all 0, for names of {', '.join(known)} "
            f"but got {dict(weights)}"
        )


def choose(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """A name, as often as its weight says."""
    names, values = list(weights), np.array(list(weights.values()), dtype=float)
    return names[int(rng.choice(len(names), p=values / values.sum()))]


def choose_transforms(rng: np.random.Generator, weights: Mapping[str, float]) -> tuple[str, ...]:
    """What is done to an image: nothing for "none", else the transform."""
    name = choose(rng, weights)
    return () if name == "none" else (name,)


def check_seed(name: str, seed: int) -> None:
    """Raise `ConfigError` for a seed that is no key of `generator`."""
    if not 0 <= seed < 2**48:
        raise ConfigError(f"{name}: expected 0 <= seed < 2**48 but got {seed}")


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
        check_weights("world.weights", self.weights)
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"world: expected 1 <= min_length <= max_length but got {self.min_length}, {self.max_length}"
            )
        if not _MIN_FONT_SIZE <= self.min_font_size <= self.max_font_size:
            raise ConfigError(
                f"world: expected {_MIN_FONT_SIZE} <= min_font_size <= max_font_size "
                f"but got {self.min_font_size}, {self.max_font_size}"
            )
        if min(self.width, self.height) < 8 or not self.alphabet:
            raise ConfigError("world: expected images of at least 8 x 8 pixels and an alphabet that is not empty")
        check_seed("world.seed", self.seed)
        self._check_characters()

    def _check_characters(self) -> None:
        missing = sorted(character for character in set(self.alphabet) if not _has_glyph(character))
        if missing:
            raise ConfigError(
                f"world.alphabet: the font DejaVu Sans Bold draws nothing for {', '.join(map(repr, missing))}"
            )
        widest = max(self.alphabet, key=lambda character: _font(_MIN_FONT_SIZE).getlength(character))
        left, _, right, _ = _bounds(widest * self.max_length, _MIN_FONT_SIZE)
        _, top, _, bottom = _bounds(self.alphabet, _MIN_FONT_SIZE)
        if right - left > self.width or bottom - top > self.height:
            raise ConfigError(
                f"world: {self.max_length} characters need {right - left} x {bottom - top} pixels in the smallest font "
                f"({_MIN_FONT_SIZE} px) but images have {self.width} x {self.height}. "
                "Raise width and height or lower max_length."
            )

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index` of a split; `transforms` forces what is done to its image."""
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
    """DejaVu Sans Bold, which matplotlib ships."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ConfigError("The plates' font comes with matplotlib, which is not installed: pip install matplotlib")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)


def _has_glyph(character: str) -> bool:
    mask, unknown = (_font(24).getmask(c) for c in (character, _UNASSIGNED))
    return mask.getbbox() is not None and (mask.size != unknown.size or bytes(mask) != bytes(unknown))


def _bounds(text: str, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = _font(size).getbbox(text)
    return int(left), int(top), int(right), int(bottom)
