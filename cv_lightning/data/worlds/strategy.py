"""A world that needs strategy, sized for the tiny policy: turn, crop, both, two crops, a filter, or no tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from PIL import Image

from cv_lightning.data.orientation import transform_sample
from cv_lightning.data.source import (
    ORIENTATION_WEIGHTS,
    SampleSource,
    Split,
    Transforms,
    check_seed,
    check_weights,
    choose,
    generator,
)
from cv_lightning.data.worlds.boards import (
    ALONE_FONT_SIZES,
    BOARD,
    COLORS,
    LARGE_FONT_SIZES,
    NAMED_BY,
    PLATE,
    Plate,
    draw_board,
    draw_plate,
    lay_out,
    random_text,
    table_color,
)
from cv_lightning.data.worlds.families import Draft, NamedCrop
from cv_lightning.data.worlds.page import Page
from cv_lightning.types import Sample

#: Boards on a page of the family "small": name -> (left, top).
CORNERS: Mapping[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top right": (BOARD, 0),
    "bottom left": (0, BOARD),
    "bottom right": (BOARD, BOARD),
}
#: Range of the share of contrast that a faded image keeps.
FADED = (0.05, 0.09)

#: Random stream of pages; families with the same drawing function share pages.
_STREAM = 2
#: Logical pixels of background beside a single plate.
_MARGIN = 7
_TURNED = {name: weight for name, weight in ORIENTATION_WEIGHTS.items() if name != "none"}


def plate_alone(rng: np.random.Generator, *, hides_target: bool, scale: int = 1, is_full: bool = False) -> Draft:
    """One readable plate, with up to 7 pixels of background beside it unless `is_full`."""
    side = PLATE + (0 if is_full else _MARGIN * int(rng.integers(2)))
    page = Page((side, side), scale, table_color(rng), hides_target=hides_target)
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    x, y = (int(rng.integers(side - PLATE + 1)) for _ in "xy")
    plate = Plate((0, 0), (x, y), color, random_text(rng))
    font_sizes = LARGE_FONT_SIZES if is_full else ALONE_FONT_SIZES
    draw_plate(page, rng, plate.at, plate, font_sizes=font_sizes, hides_text=hides_target)
    page.mark(plate.box)
    is_named = is_full or rng.random() < 0.5
    return Draft(page, f"Read the {color} plate." if is_named else "Read the plate.", plate.text, needs_crop=False)


def large_plate(rng: np.random.Generator, *, hides_target: bool) -> Draft:
    """One plate as large as a board: it can be read without a tool."""
    return plate_alone(rng, hides_target=hides_target, scale=BOARD // PLATE, is_full=True)


def faded_plate(rng: np.random.Generator, *, hides_target: bool) -> Draft:
    """One plate with almost no contrast; a filter restores the contrast."""
    draft = plate_alone(rng, hides_target=hides_target)
    kept, gray = rng.uniform(*FADED), rng.uniform(110, 190)
    pixels = np.rint(gray + (np.asarray(draft.page.image, dtype=np.float32) - gray) * kept)
    draft.page.image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return draft


def one_board(rng: np.random.Generator, *, hides_target: bool) -> Draft:
    """A board of three to nine plates."""
    page = Page((BOARD, BOARD), 1, (0, 0, 0), hides_target=hides_target)
    board = lay_out(rng, int(rng.integers(3, 10)), choose(rng, NAMED_BY))
    page.mark(draw_board(page, rng, (0, 0), board))
    return Draft(page, f"Read {board.name}.", board.target.text, needs_crop=True, crops=(board.crop,))


def named_boxes(rng: np.random.Generator, *, hides_target: bool) -> Draft:
    """A board of one to nine plates: the answer is the box of one plate, in words."""
    page = Page((BOARD, BOARD), 1, (0, 0, 0), hides_target=hides_target)
    board = lay_out(rng, 1 + int(9 * rng.random() ** 2), choose(rng, NAMED_BY))  # a third of the boards hold one plate
    page.mark(draw_board(page, rng, (0, 0), board))
    answer = box_in_words(board.label, board.target.box)
    return Draft(page, f"Find {board.name}.", answer, needs_crop=False)


def box_in_words(name: str, box: Sequence[float]) -> str:
    """A named box in pixels, such as "red 91, 28, 154, 91"."""
    return f"{name} {', '.join(str(round(edge)) for edge in box)}"


def four_boards(rng: np.random.Generator, *, hides_target: bool) -> Draft:
    """Four boards: the text is unreadable on the page and also on a crop of a whole board."""
    page = Page((2 * BOARD, 2 * BOARD), 1, (0, 0, 0), hides_target=hides_target)
    asked = list(CORNERS)[int(rng.integers(len(CORNERS)))]
    boards = {}
    for name, at in CORNERS.items():
        boards[name] = lay_out(rng, int(rng.integers(3, 10)), choose(rng, NAMED_BY))
        page.hides_target = hides_target and name == asked
        box = draw_board(page, rng, at, boards[name])
        if name == asked:
            page.mark(box)
    board = boards[asked]
    others = tuple((x, y, x + BOARD, y + BOARD) for name, (x, y) in CORNERS.items() if name != asked)
    crops = (NamedCrop(asked, others), board.crop)
    return Draft(page, f"Read {board.name} on the {asked} board.", board.target.text, needs_crop=True, crops=crops)


@dataclass(frozen=True)
class _Family:
    """The drawing function of a family; if `is_turned`, its image is never upright."""

    draw: Callable[..., Draft]
    is_turned: bool = False


#: Families by name. Families with the same function show the same page at the same index.
STRATEGY_FAMILIES: Mapping[str, _Family] = {
    "read": _Family(plate_alone),
    "turned": _Family(plate_alone, is_turned=True),
    "find": _Family(one_board),
    "find_turned": _Family(one_board, is_turned=True),
    "small": _Family(four_boards),
    "faded": _Family(faded_plate),
    "decoy": _Family(large_plate),
    "locate": _Family(named_boxes),
}


@dataclass(frozen=True)
class StrategyWorld(SampleSource):
    """Plates to read; each family needs its own strategy. The world suits a policy that sees images at 84 x 84 pixels.

    Validation and test go through all families in turn; `turned` and `find_turned` use the same pages as `read` and
    `find`.

    Attributes:
        seed: Seed of the world.
        families: Frequency of each family in training: name in `STRATEGY_FAMILIES` -> weight.
    """

    conditions: ClassVar[tuple[Transforms | None, ...]] = (None,)

    seed: int = 0
    families: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STRATEGY_FAMILIES, 1.0))

    def __post_init__(self) -> None:
        check_weights("world.families", self.families, tuple(STRATEGY_FAMILIES))
        check_seed("world.seed", self.seed)

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; `transforms` sets its orientation, and a "crop" among them is ignored."""
        return self.sample_and_crops(split, index, transforms)[0]

    def sample_and_crops(
        self, split: Split, index: int, transforms: Sequence[str] | None = None
    ) -> tuple[Sample, tuple[NamedCrop, ...]]:
        """The sample at `index`, and the crops that it needs, from the outside in."""
        number, family, turn = self._asked(split, index)
        asked = tuple(name for name in transforms or () if name != "crop")
        if transforms is None and STRATEGY_FAMILIES[family].is_turned:
            asked = (turn,)
        draft = self.draw(split, number, family)
        upright = draft.sample(f"{family}-{self.seed}-{split}-{number}", family, type(self).__name__)
        return transform_sample(upright, asked), draft.crops

    def _asked(self, split: Split, index: int) -> tuple[int, str, str]:
        """(page, family, turn) of an index."""
        if split == "train":
            rng = generator(self.seed, split, index)
            return index, choose(rng, self.families), choose(rng, _TURNED)
        number, place = divmod(index, len(STRATEGY_FAMILIES))
        return number, list(STRATEGY_FAMILIES)[place], list(_TURNED)[number % len(_TURNED)]

    def draw(self, split: Split, number: int, family: str, *, hides_target: bool = False) -> Draft:
        """An upright page; `hides_target` leaves out the answer."""
        rng = generator(self.seed, split, number, _STREAM)
        return STRATEGY_FAMILIES[family].draw(rng, hides_target=hides_target)
