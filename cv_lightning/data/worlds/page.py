"""A page that is laid out once in logical pixels and rendered at any integer scale; boxes scale with it exactly."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cv_lightning.errors import ConfigError
from cv_lightning.types import Box

Color = tuple[int, int, int]
Point = tuple[float, float]

#: Fonts that matplotlib ships; other versions of the files draw other pages.
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSans-Oblique")

#: Photographs in installed packages: (package, path in the package).
PHOTOS = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


class Page:
    """An RGB page.

    Args:
        size: Width and height in logical pixels.
        scale: Image pixels per logical pixel.
        background: Color of the page.
        hides_target: Leave out the answer; the rest is the same.
    """

    def __init__(self, size: tuple[int, int], scale: int, background: Color, *, hides_target: bool = False) -> None:
        self.size = size
        self.scale = scale
        self.hides_target = hides_target
        self.box: Box | None = None
        self.image = Image.new("RGB", (size[0] * scale, size[1] * scale), background)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, at: Point, text: str, font: str, size: int, fill: Color) -> None:
        """Write text so that its visible pixels, not its line box, begin at `at` (left, top)."""
        left, top, _, _ = ink(text, font, size)
        x, y = (at[0] - left) * self.scale, (at[1] - top) * self.scale
        self._draw.text((x, y), text, font=load_font(font, size * self.scale), fill=fill)

    def target(self, at: Point, text: str, font: str, size: int, fill: Color) -> None:
        """Write the answer, and store its box."""
        width, height = extent(text, font, size)
        # Hinting moves glyphs by up to a pixel at other scales, and text with some space around it is easier to read.
        air = air_of(size)
        self.mark((at[0] - air, at[1] - air, at[0] + width + air, at[1] + height + air))
        if not self.hides_target:
            self.text(at, text, font, size, fill)

    def mark(self, box: Box) -> None:
        """Store the box (logical pixels) of the answer, clipped to the page."""
        x1, y1, x2, y2 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
        cut = max(0, x1), max(0, y1), min(self.size[0], x2), min(self.size[1], y2)
        self.box = cut[0] * self.scale, cut[1] * self.scale, cut[2] * self.scale, cut[3] * self.scale

    def rectangle(self, box: Box, fill: Color | None = None, outline: Color | None = None) -> None:
        """Draw a rectangle; `box[2:]` is exclusive."""
        x1, y1, x2, y2 = (edge * self.scale for edge in box)
        self._draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=fill, outline=outline, width=self.scale)

    def line(self, start: Point, end: Point, fill: Color) -> None:
        """Draw a line with a width of one logical pixel."""
        self._draw.line([(x * self.scale, y * self.scale) for x, y in (start, end)], fill=fill, width=self.scale)

    def photo(self, number: int, strength: float) -> None:
        """Put a photograph over the page; below 1, `strength` blends it with the page."""
        photo = load_photo(number).resize(self.image.size, Image.Resampling.BILINEAR)
        self.image.paste(Image.blend(self.image, photo, strength))


def air_of(size: int) -> int:
    """Margin in logical pixels between text of a font size and the edges of its box."""
    return max(2, math.ceil(size * 0.2))


def ink(text: str, font: str, size: int) -> tuple[int, int, int, int]:
    """Bounds of the drawn pixels of a text (left, top, right, bottom) in logical pixels."""
    left, top, right, bottom = load_font(font, size).getbbox(text)
    return int(left), int(top), int(right), int(bottom)


def extent(text: str, font: str, size: int) -> tuple[int, int]:
    """Width and height of the drawn pixels of a text in logical pixels."""
    left, top, right, bottom = ink(text, font, size)
    return right - left, bottom - top


@lru_cache(maxsize=256)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of `FONTS` at a size in pixels."""
    return ImageFont.truetype(font_file(name), size, layout_engine=ImageFont.Layout.BASIC)


def font_file(name: str) -> str:
    """The file of a font that matplotlib ships."""
    return str(_package_file("matplotlib", f"mpl-data/fonts/ttf/{name}.ttf"))


@lru_cache(maxsize=len(PHOTOS))
def load_photo(number: int) -> Image.Image:
    """A photograph of `PHOTOS`, at most 1,024 pixels wide."""
    with Image.open(_package_file(*PHOTOS[number])) as image:
        photo = image.convert("RGB")
    photo.thumbnail((1024, 1024))
    return photo


def _package_file(package: str, name: str) -> Path:
    spec = find_spec(package)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / name
    if path is None or not path.is_file():
        shown = "scikit-learn" if package == "sklearn" else package
        raise ConfigError(f"The worlds draw with {name} of {shown}, which is missing. Run pip install {shown}.")
    return path


def grain(rng: np.random.Generator, size: tuple[int, int], scale: int, deviation: float) -> np.ndarray:
    """Noise [H, W, 3] with one value per logical pixel and channel, the same at every scale."""
    noise = rng.normal(0.0, deviation, (size[1], size[0], 3)).astype(np.float32)
    return noise.repeat(scale, 0).repeat(scale, 1)
