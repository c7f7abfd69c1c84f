"""A source of samples from the families, exact at any resolution, and a fixed benchmark made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cv_lightning.data.orientation import transform_sample
from cv_lightning.data.source import (
    ORIENTATION_WEIGHTS,
    SampleSource,
    Split,
    check_seed,
    check_weights,
    choose,
    choose_transforms,
    generator,
)
from cv_lightning.data.worlds.families import FAMILIES, Draft, Paper, Sizes
from cv_lightning.data.worlds.published import ItemDigest, check_item, item_digest
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample

#: Smallest font size to draw: letters of smaller fonts could not be distinguished at scale 1.
MIN_FONT_SIZE = 8

#: Number of items in MVTool-procedural.
N_ITEMS = 1000

#: Random stream of each family's pages; no two families share a stream. Stream 0 chooses family and orientation.
_STREAMS = {family: 2 + number for number, family in enumerate(FAMILIES)}


@dataclass(frozen=True)
class FamilyWorld(SampleSource):
    """Pages of several families; at the model's pixel budget, pages with small text need a crop.

    The model sees an image of more than `max_pixels` pixels reduced to this number. Small text then has a font size of
    at most `unreadable_px` pixels, large text of at least `readable_px`, whatever `scale` is.

    Attributes:
        seed: Seed of the world.
        width: Page width in logical pixels.
        height: Page height in logical pixels.
        scale: Image pixels per logical pixel; layout, question and answer do not depend on it.
        max_pixels: Maximum number of pixels of an image that the model sees.
        unreadable_px: Largest font size, as the model sees it, of text that needs a crop.
        readable_px: Smallest font size, as the model sees it, of text that needs no crop.
        families: Frequency of each family: name in `FAMILIES` -> weight.
        weights: Frequency of each orientation, as in `PlateWorld`.
    """

    seed: int = 0
    width: int = 640
    height: int = 480
    scale: int = 1
    max_pixels: int = 112 * 112
    unreadable_px: float = 4.0
    readable_px: float = 7.0
    families: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FAMILIES, 1.0))
    weights: Mapping[str, float] = field(default_factory=lambda: dict(ORIENTATION_WEIGHTS))

    def __post_init__(self) -> None:
        check_weights("world.families", self.families, tuple(FAMILIES))
        check_weights("world.weights", self.weights)
        check_seed("world.seed", self.seed)
        if min(self.width, self.height) < 64 or self.max_pixels < 1 or not 1 <= self.scale <= 16:
            raise ConfigError(
                "world: expected pages of at least 64 x 64, max_pixels of at least 1 and a scale from 1 to 16, got "
                f"{self.width} x {self.height}, {self.max_pixels}, {self.scale}"
            )
        if not 0 < self.unreadable_px < self.readable_px:
            raise ConfigError(
                f"world: expected 0 < unreadable_px < readable_px, got {self.unreadable_px}, {self.readable_px}"
            )
        if self.sizes.small[0] > self.sizes.small[1]:
            raise ConfigError(
                f"world: a page of {self.width} x {self.height} shown at {self.max_pixels} pixels leaves every font of "
                f"at least {MIN_FONT_SIZE} px readable. Raise width and height or lower max_pixels."
            )

    @property
    def reduction(self) -> float:
        """Pixels that the model sees per logical pixel; an image within the budget is not enlarged."""
        return min(1.0, math.sqrt(self.max_pixels / (self.width * self.height)))

    @property
    def sizes(self) -> Sizes:
        """The font sizes that follow from the budget, in logical pixels."""
        largest_small = int(self.unreadable_px / self.reduction)
        smallest_large = math.ceil(self.readable_px / self.reduction)
        return Sizes(
            (max(MIN_FONT_SIZE, round(largest_small * 0.6)), largest_small), (smallest_large, 2 * smallest_large)
        )

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; `transforms` sets its orientation, and a "crop" among them is ignored."""
        rng = generator(self.seed, split, index)
        family = choose(rng, self.families)
        chosen = choose_transforms(rng, self.weights)
        if family == "turned" and not chosen:
            chosen = (choose(rng, {name: 1.0 for name in ORIENTATION_WEIGHTS if name != "none"}),)
        asked = chosen if transforms is None else tuple(name for name in transforms if name != "crop")
        return transform_sample(self.upright(split, index, family), asked)

    def upright(self, split: Split, index: int, family: str) -> Sample:
        """The sample of a family at `index` before its image is transformed."""
        draft = self.draw(split, index, family)
        return draft.sample(f"{family}-{self.seed}-{split}-{index}", family, type(self).__name__)

    def draw(self, split: Split, index: int, family: str, *, hides_target: bool = False) -> Draft:
        """The upright page of an index; `hides_target` leaves out the answer."""
        paper = Paper((self.width, self.height), self.scale, self.sizes, hides_target)
        return FAMILIES[family](paper, generator(self.seed, split, index, _STREAMS[family]))


@dataclass(frozen=True)
class MVToolProcedural(FamilyWorld):
    """MVTool-procedural: 1,000 fixed test items with the metadata of MVToolBench (arXiv 2512.03746).

    `published.publication().version` identifies their pixels; an item that is drawn differently on this machine gives a
    warning. A larger `scale` renders the same items larger. Families and orientations alternate, so that each
    combination has its share.
    """

    seed: int = 251203746
    width: int = 1024
    height: int = 768
    max_pixels: int = 256 * 256

    def size(self, split: Split) -> int:
        """1,000 samples in test, none in other splits."""
        return N_ITEMS if split == "test" else 0

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """Item `index` of the test split; raises `IndexError` for any other."""
        if split != "test":
            raise IndexError(f"MVTool-procedural: expected a test item from 0 to {N_ITEMS - 1}, got {index} of {split}")
        upright, own = self._item(index)
        if self == MVToolProcedural(scale=self.scale):
            check_item(index, item_digest(upright, own, self.scale))
        asked = own if transforms is None else tuple(name for name in transforms if name != "crop")
        return transform_sample(upright, asked)

    def digest(self, index: int) -> ItemDigest:
        """The digest of item `index` as drawn on this machine."""
        return item_digest(*self._item(index), self.scale)

    def _item(self, index: int) -> tuple[Sample, tuple[str, ...]]:
        """Item `index` upright, and its transforms."""
        if not 0 <= index < N_ITEMS:
            raise IndexError(f"MVTool-procedural: expected a test item from 0 to {N_ITEMS - 1}, got {index} of test")
        family = list(FAMILIES)[index % len(FAMILIES)]
        orientation = list(ORIENTATION_WEIGHTS)[index // len(FAMILIES) % len(ORIENTATION_WEIGHTS)]
        if family == "turned" and orientation == "none":
            orientation = "rotate_180"
        upright = replace(self.upright("test", index, family), id=f"mvtool-procedural-{index:04d}")
        return upright, () if orientation == "none" else (orientation,)
