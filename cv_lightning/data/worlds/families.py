"""The families of a world: each lays out and draws a page with an exact question, answer and box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cv_lightning.data.worlds.page import FONTS, PHOTOS, Color, Page, air_of, extent, grain
from cv_lightning.errors import ConfigError
from cv_lightning.types import Box, Sample

#: Characters that can be distinguished from each other in every orientation and font.
CODE_ALPHABET = "24567FGJLPR"
WORDS = (  # noqa: SIM905 - a list of 45 strings is harder to read
    "ACORN ALDER AMBER APPLE ASTER BASIL BEECH BIRCH CEDAR CLOVE CORAL DAISY FERN FLAX GINGER HAZEL HOLLY IRIS IVY "
    "JADE KALE LEMON LILAC LINDEN MAPLE MINT MOSS OAK OLIVE ONYX OPAL PEARL PINE PLUM POPPY QUARTZ REED ROSE RUBY SAGE "
    "TEAK THYME TULIP WILLOW YARROW"
).split()
FIELDS = ("Name", "Order", "Street", "City", "Phone", "Customer", "Invoice", "Batch", "Room", "Seat", "Gate", "Locker")


@dataclass(frozen=True)
class Sizes:
    """Font sizes in logical pixels.

    Attributes:
        small: (smallest, largest) size of text that the model cannot read in the whole image.
        large: (smallest, largest) size of text that it can read there.
    """

    small: tuple[int, int]
    large: tuple[int, int]


@dataclass(frozen=True)
class NamedCrop:
    """The target of a crop.

    Attributes:
        name: Short name of the target, such as "red".
        others: Boxes of similar objects that could be confused with it, in pixels of the upright view to crop.
    """

    name: str
    others: tuple[Box, ...]


@dataclass(frozen=True)
class Draft:
    """A drawn page with its question.

    Attributes:
        page: The page.
        question: The question.
        answer: Its answer.
        needs_crop: Whether the answer cannot be read without a crop.
        crops: The target of each crop, from the outside in.
    """

    page: Page
    question: str
    answer: str
    needs_crop: bool
    crops: tuple[NamedCrop, ...] = ()

    def sample(self, identity: str, family: str, source: str) -> Sample:
        """The page as an upright sample."""
        return Sample(
            id=identity,
            question=self.question,
            images=(self.page.image,),
            answer=self.answer,
            transforms=("crop",) if self.needs_crop else (),
            box=self.page.box,
            family=family,
            source=source,
        )


@dataclass(frozen=True)
class Paper:
    """The settings that all families share."""

    size: tuple[int, int]
    scale: int
    sizes: Sizes
    hides_target: bool = False

    def page(self, background: Color) -> Page:
        """A page of one color."""
        return Page(self.size, self.scale, background, hides_target=self.hides_target)


Family = Callable[[Paper, np.random.Generator], Draft]


def labels(paper: Paper, rng: np.random.Generator) -> Draft:
    """Many small signs, each with a name and a code, on a photograph or a wall: which code is below a name?"""
    page = paper.page(_color(rng, 120, 230))
    if rng.random() < 0.5:
        page.photo(int(rng.integers(len(PHOTOS))), float(rng.uniform(0.5, 1.0)))
    font, size = _pick(rng, FONTS), _between(rng, paper.sizes.small)
    cell = _cell(font, size)
    columns, rows = paper.size[0] // cell[0], paper.size[1] // cell[1]
    if columns * rows < 2:
        raise ConfigError(f"A scene needs two labels of {cell[0]} x {cell[1]} pixels. Raise width and height.")
    n_labels = int(rng.integers(2, min(columns * rows, len(WORDS), 40) + 1))
    places = rng.permutation(columns * rows)[:n_labels]
    names = [WORDS[i] for i in rng.permutation(len(WORDS))[:n_labels]]
    codes = _distinct_codes(rng, n_labels)
    for number, place in enumerate(places):
        spare = [paper.size[0] // columns - cell[0], paper.size[1] // rows - cell[1]]
        x = int(place % columns) * (paper.size[0] // columns) + int(rng.integers(spare[0] + 1))
        y = int(place // columns) * (paper.size[1] // rows) + int(rng.integers(spare[1] + 1))
        _label(page, rng, (x, y), cell, (names[number], codes[number]), font, size, is_target=number == 0)
    return Draft(page, f"Which code stands below the name {names[0]}?", codes[0], needs_crop=True)


def _cell(font: str, size: int) -> tuple[int, int]:
    widest = max(extent(word, font, size)[0] for word in (*WORDS, "GGGGG"))
    height = extent("GJ", font, size)[1]
    air = air_of(size)
    return widest + 4 * air, 2 * height + 6 * air


def _label(
    page: Page,
    rng: np.random.Generator,
    at: tuple[int, int],
    cell: tuple[int, int],
    texts: tuple[str, str],
    font: str,
    size: int,
    *,
    is_target: bool,
) -> None:
    air, height = air_of(size), extent("GJ", font, size)[1]
    board, ink = (_color(rng, 205, 256), _color(rng, 0, 70))
    if rng.random() < 0.35:
        board, ink = ink, board
    page.rectangle((at[0] + 1, at[1] + 1, at[0] + cell[0] - 1, at[1] + cell[1] - 1), fill=board, outline=ink)
    x, y = at[0] + 2 * air, at[1] + 2 * air
    page.text((x, y), texts[0], font, size, ink)
    write = page.target if is_target else page.text
    write((x, y + height + 2 * air), texts[1], font, size, ink)


def receipt(paper: Paper, rng: np.random.Generator) -> Draft:
    """A receipt on a table: what is one of the prices, or the total?"""
    page = paper.page(_color(rng, 60, 160))
    if rng.random() < 0.4:
        page.photo(int(rng.integers(len(PHOTOS))), 0.8)
    size = _between(rng, paper.sizes.small)
    font, (width, height) = "DejaVuSansMono", extent("G", "DejaVuSansMono", size)
    step = height + 2 * air_of(size)
    strip = min(paper.size[0], (width + 2) * 22)
    n_items = min(int(rng.integers(5, 19)), paper.size[1] // step - 6)
    if n_items < 1 or strip < (width + 1) * 16:
        raise ConfigError("A receipt needs seven lines of 16 characters in the smallest font. Raise width and height.")
    length = step * (n_items + 6)
    x = int(rng.integers(paper.size[0] - strip + 1))
    y = int(rng.integers(paper.size[1] - length + 1))
    ink = _color(rng, 10, 80)
    page.rectangle((x, y, x + strip, y + length), fill=_color(rng, 236, 256))
    names = [WORDS[i] for i in rng.permutation(len(WORDS))[:n_items]]
    prices = [int(cents) for cents in rng.permutation(np.arange(105, 4999))[:n_items]]
    lines = [(name.title(), cents) for name, cents in zip(names, prices, strict=True)]
    asked = int(rng.integers(n_items + 1))
    page.text((x + 2 * width, y + step // 2), f"SHOP {_code(rng, 4)}", font, size, ink)
    page.line((x + width, y + 2 * step), (x + strip - width, y + 2 * step), ink)
    lines.append(("Total", sum(prices)))
    for number, (name, cents) in enumerate(lines):
        top = y + step * (number + 3 if number < n_items else n_items + 4)
        price = f"{cents / 100:.2f}"
        page.text((x + width, top), name, font, size, ink)
        left = x + strip - width - extent(price, font, size)[0]
        (page.target if number == asked else page.text)((left, top), price, font, size, ink)
    what = "the total" if asked == n_items else f"the price of {lines[asked][0]}"
    return Draft(page, f"What is {what} on the receipt?", f"{lines[asked][1] / 100:.2f}", needs_crop=True)


def form(paper: Paper, rng: np.random.Generator) -> Draft:
    """A printed form with ruled fields: what is written in a field?"""
    page = paper.page(_color(rng, 232, 256))
    size, font = _between(rng, paper.sizes.small), _pick(rng, FONTS)
    air, height = air_of(size), extent("Gj", font, size)[1]
    row = height + 6 * air
    label_width = max(extent(name, font, size)[0] for name in FIELDS) + 3 * air
    entry_width = extent("GGGGGGG", font, size)[0] + 4 * air
    columns = min(2, paper.size[0] // (label_width + entry_width + air))
    n_rows = min(len(FIELDS) // max(1, columns), paper.size[1] // row - 1)
    if columns * n_rows < 2:
        raise ConfigError("A form needs two fields in the smallest font. Raise width and height.")
    names = [FIELDS[i] for i in rng.permutation(len(FIELDS))[: columns * n_rows]]
    entries = _distinct_codes(rng, len(names), length=6)
    ink, pen = _color(rng, 0, 60), (int(rng.integers(0, 50)), int(rng.integers(0, 70)), int(rng.integers(110, 190)))
    asked = int(rng.integers(len(names)))
    spare = paper.size[0] - columns * (label_width + entry_width + air), paper.size[1] - (n_rows + 1) * row
    x0, y0 = (int(rng.integers(max(0, value) + 1)) for value in spare)
    page.text((x0 + air, y0 + air), f"FORM {_code(rng, 3)}", font, size, ink)
    for number, (name, entry) in enumerate(zip(names, entries, strict=True)):
        x = x0 + (number % columns) * (label_width + entry_width + air)
        y = y0 + row * (1 + number // columns)
        page.text((x + air, y + 2 * air), name, font, size, ink)
        page.rectangle((x + label_width, y, x + label_width + entry_width, y + row - air), outline=ink)
        write = page.target if number == asked else page.text
        write((x + label_width + 2 * air, y + 2 * air), entry, font, size, pen)
    return Draft(page, f"What is written in the field {names[asked]}?", entries[asked], needs_crop=True)


def chart(paper: Paper, rng: np.random.Generator) -> Draft:
    """A bar chart. Values are above the bars or must be read from the axis; every bar ends on a grid line."""
    page = paper.page(_color(rng, 240, 256))
    size, font = paper.sizes.large[0], _pick(rng, ("DejaVuSans", "DejaVuSerif"))
    ink, (width, height) = _color(rng, 0, 70), paper.size
    left = extent("1000", font, size)[0] + 3 * air_of(size)
    top, bottom = 3 * size, height - 2 * size
    names = [WORDS[i].title() for i in rng.permutation(len(WORDS))]
    widest = max(extent(name.title(), font, size)[0] for name in WORDS) + air_of(size)
    n_bars = min(int(rng.integers(2, 8)), (width - left) // widest)
    unit, n_ticks = int(rng.choice([1, 2, 5, 10, 20])), min(int(rng.integers(4, 9)), (bottom - top) // (size + 2))
    if n_bars < 2 or n_ticks < 2:
        raise ConfigError("A chart needs two bars in a font that can be read. Raise width, height or max_pixels.")
    has_values = bool(rng.random() < 0.5)
    for tick in range(n_ticks + 1):
        y = bottom - tick * ((bottom - top) // n_ticks)
        page.line((left, y), (width, y), (200, 200, 200))
        if not has_values:
            page.text((air_of(size), y - size // 2), str(tick * unit), font, size, ink)
    heights = rng.integers(1, n_ticks + 1, n_bars)
    asked, slot = int(rng.integers(n_bars)), (width - left) // n_bars
    for number, ticks in enumerate(heights):
        x, y = left + number * slot, bottom - int(ticks) * ((bottom - top) // n_ticks)
        bar = (x + slot // 5, y, x + slot - slot // 5, bottom)
        is_target, color = number == asked, _color(rng, 40, 210)
        if has_values or not (is_target and page.hides_target):
            page.rectangle(bar, fill=color)
        if has_values:
            write = page.target if is_target else page.text
            write((bar[0], y - size - 2), str(int(ticks) * unit), font, size, ink)
        elif is_target:
            page.mark(bar)
        page.text((x + 1, bottom + size // 3), names[number], font, size, ink)
    answer = str(int(heights[asked]) * unit)
    return Draft(page, f"What is the value of the bar {names[asked]}?", answer, needs_crop=False)


def faded(paper: Paper, rng: np.random.Generator) -> Draft:
    """One large code among smaller words, made dim, faded, noisy or inverted: a filter helps but is not required."""
    dark, light = _color(rng, 0, 50), _color(rng, 215, 256)
    page = paper.page(light)
    font, code = _pick(rng, FONTS), _code(rng, 4)
    size = paper.sizes.large[1]
    while size > paper.sizes.large[0] and extent(code, font, size)[0] > paper.size[0] - 2 * air_of(size):
        size -= 1
    width, height = extent(code, font, size)
    air = air_of(size)
    x = int(rng.integers(air, max(air + 1, paper.size[0] - width - air)))
    band = (paper.size[1] - height) // 2
    y = band + int(rng.integers(-band // 3, band // 3 + 1))
    page.target((x, y), code, font, size, dark)
    for top in (air, paper.size[1] - paper.sizes.large[0] - air):
        if not y - air - paper.sizes.large[0] < top < y + height + air:
            page.text((air, top), _pick(rng, WORDS).title(), font, paper.sizes.large[0], dark)
    _spoil(page, rng)
    return Draft(page, "Which code is written in large letters?", code, needs_crop=False)


def _spoil(page: Page, rng: np.random.Generator) -> None:
    """Make a page hard to see, in the same way at every scale."""
    way = _pick(rng, ("dim", "faded", "noisy", "inverted"))
    pixels = np.asarray(page.image, dtype=np.float32)
    if way == "dim":
        pixels = pixels * rng.uniform(0.08, 0.2)
    elif way == "faded":
        pixels = 225 + (pixels - 225) * rng.uniform(0.06, 0.14)
    elif way == "noisy":
        pixels = 128 + (pixels - 128) * 0.45 + grain(rng, page.size, page.scale, 55.0)
    else:
        pixels = 35 + (255 - pixels) * rng.uniform(0.2, 0.5)
    page.image.paste(Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))


#: Families by name; `turned` draws the same pages as `labels`, but its image is never upright.
FAMILIES: Mapping[str, Family] = {
    "labels": labels,
    "turned": labels,
    "receipt": receipt,
    "form": form,
    "chart": chart,
    "faded": faded,
}


def _color(rng: np.random.Generator, low: int, high: int) -> Color:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _between(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def _code(rng: np.random.Generator, length: int) -> str:
    return "".join(CODE_ALPHABET[i] for i in rng.integers(0, len(CODE_ALPHABET), length))


def _distinct_codes(rng: np.random.Generator, count: int, length: int = 5) -> list[str]:
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes[_code(rng, length)] = None
    return list(codes)
