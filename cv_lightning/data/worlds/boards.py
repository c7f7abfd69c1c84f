"""Boards of colored plates: the pages that need strategy, laid out before they are drawn.

A board is three by three cells below a header, a strip with its badge on the left: its orientation can be seen when
none of its text can be read. A plate holds three characters and is named by its cell, by its color, by its place
beside another plate, or by its mark; no other plate of its board has that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cv_lightning.data.worlds.families import NamedCrop
from cv_lightning.data.worlds.page import Color, Page, extent
from cv_lightning.data.worlds.plates import CHIRAL_ALPHABET
from cv_lightning.types import Box

#: Sides in logical pixels: of a board, a plate, a cell (width, height), the header's height, and the steps of a place.
#: So each plate fills most of one of the nine visual tokens of a policy that sees its board at 84 x 84 pixels: with
#: plates that two tokens share, a small policy learned no places in 340 steps.
BOARD, PLATE, CELL, HEADER, STEP = 252, 63, (84, 77), 21, 7
#: Height of the strip in the header.
STRIP = 14
#: Font sizes of the text on a board, of a plate that lies alone, and of one that is large.
#: A policy learns to read large text first.
FONT_SIZES, ALONE_FONT_SIZES, LARGE_FONT_SIZES = (16, 17), (18, 24), (20, 24)
FONT = "DejaVuSans-Bold"

COLORS: Mapping[str, Color] = {
    "red": (230, 30, 30),
    "orange": (250, 140, 10),
    "yellow": (250, 240, 30),
    "green": (20, 150, 40),
    "cyan": (40, 230, 240),
    "blue": (30, 60, 240),
    "purple": (130, 20, 170),
    "pink": (255, 140, 210),
    "white": (250, 250, 250),
}
#: Places beside a plate, as steps of cells (columns, rows).
PLACES: Mapping[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
#: Marks that are visible when the text is not.
MARKS = ("frame", "bar")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
#: How often a plate is named by each property. A cell says where to crop; for the others the plate must be seen.
NAMED_BY = {"mark": 5.0, "cell": 4.0, "color": 0.5, "place": 0.5}


@dataclass(frozen=True)
class Plate:
    """A plate of a board.

    Attributes:
        cell: Column and row.
        at: Left and top within its board, in logical pixels.
        color: A name of `COLORS`.
        text: Three characters.
        mark: One of `MARKS`, or "".
    """

    cell: tuple[int, int]
    at: tuple[int, int]
    color: str
    text: str
    mark: str = ""

    @property
    def box(self) -> Box:
        """Its box within its board."""
        return (*self.at, self.at[0] + PLATE, self.at[1] + PLATE)


@dataclass(frozen=True)
class Board:
    """Plates in the order of their cells, and the one that is asked for.

    Attributes:
        plates: No two have one cell, one color or one text.
        asked: The place of the plate that is asked for among them.
        name: Its name, as in "the red plate".
        label: Its name in a word or two, as in "red".
    """

    plates: tuple[Plate, ...]
    asked: int
    name: str
    label: str

    @property
    def target(self) -> Plate:
        """The plate that is asked for."""
        return self.plates[self.asked]

    @property
    def crop(self) -> NamedCrop:
        """The crop that shows the plate that is asked for."""
        others = tuple(plate.box for plate in self.plates if plate is not self.target)
        return NamedCrop(self.label, others)


def lay_out(rng: np.random.Generator, n_plates: int, named_by: str) -> Board:
    """A board of `n_plates` plates, 1 to 9, whose target is named by its "cell", "color", "place" or "mark".

    A name by place needs two plates in neighboring cells; a board without them names the target by its color.
    """
    cells = sorted(divmod(int(place), 3)[::-1] for place in rng.permutation(9)[:n_plates])
    colors = [list(COLORS)[number] for number in rng.permutation(len(COLORS))[:n_plates]]
    texts: dict[str, None] = {}
    while len(texts) < n_plates:
        texts[random_text(rng)] = None
    spare = (CELL[0] - PLATE) // STEP + 1, (CELL[1] - PLATE) // STEP + 1
    plates = []
    for cell, color, text in zip(cells, colors, texts, strict=True):
        x = cell[0] * CELL[0] + STEP * int(rng.integers(spare[0]))
        y = HEADER + cell[1] * CELL[1] + STEP * int(rng.integers(spare[1]))
        plates.append(Plate(cell, (x, y), color, text))
    asked = int(rng.integers(n_plates))
    if named_by == "mark":
        mark = MARKS[int(rng.integers(len(MARKS)))]
        plates[asked] = replace(plates[asked], mark=mark)
        return Board(tuple(plates), asked, f"the plate with the {mark}", mark)
    if named_by == "place" and (pairs := _neighbors(plates)):
        asked, place, beside = pairs[int(rng.integers(len(pairs)))]
        color = plates[beside].color
        return Board(tuple(plates), asked, f"the plate {place} the {color} one", f"{place} {color}")
    target = plates[asked]
    label = f"{ROWS[target.cell[1]]} {COLUMNS[target.cell[0]]}" if named_by == "cell" else target.color
    return Board(tuple(plates), asked, f"the {label} plate", label)


def _neighbors(plates: list[Plate]) -> list[tuple[int, str, int]]:
    """(plate, place, the plate beside which it is) of all neighbors."""
    numbers = {plate.cell: number for number, plate in enumerate(plates)}
    return [
        (numbers[neighbor], place, number)
        for (column, row), number in numbers.items()
        for place, (dx, dy) in PLACES.items()
        if (neighbor := (column + dx, row + dy)) in numbers
    ]


def draw_board(page: Page, rng: np.random.Generator, at: tuple[int, int], board: Board) -> Box:
    """Draw a board with its left top corner at `at`; returns the box of its target on the page."""
    x, y = at
    page.rectangle((x, y, x + BOARD, y + BOARD), fill=table_color(rng))
    page.rectangle((x, y, x + BOARD, y + STRIP), fill=(225, 225, 225))
    page.rectangle((x, y, x + CELL[0], y + STRIP), fill=(150, 30, 30))
    for plate in board.plates:
        is_target = plate is board.target
        draw_plate(page, rng, (x + plate.at[0], y + plate.at[1]), plate, hides_text=is_target and page.hides_target)
    x1, y1, x2, y2 = board.target.box
    return x + x1, y + y1, x + x2, y + y2


def draw_plate(
    page: Page,
    rng: np.random.Generator,
    at: tuple[int, int],
    plate: Plate,
    *,
    font_sizes: tuple[int, int] = FONT_SIZES,
    hides_text: bool = False,
) -> None:
    """Draw a plate with its left top corner at `at`: its color, its mark, and its text on a pale field."""
    red, green, blue = (min(255, int(value + rng.integers(-8, 9))) for value in COLORS[plate.color])
    paper, ink = int(rng.integers(225, 256)), int(rng.integers(0, 40))
    x, y = at
    page.rectangle((x, y, x + PLATE, y + PLATE), fill=(red, green, blue))
    if plate.mark == "bar":
        page.rectangle((x, y, x + PLATE, y + 12), fill=(0, 0, 0))
    elif plate.mark == "frame":
        page.rectangle((x, y, x + PLATE, y + PLATE), fill=(0, 0, 0))
        page.rectangle((x + 5, y + 5, x + PLATE - 5, y + PLATE - 5), fill=(red, green, blue))
    edge, top = {"bar": (2, 13), "frame": (6, 6)}.get(plate.mark, (2, 2))
    size = int(rng.integers(font_sizes[0], font_sizes[1] + 1))
    while extent(plate.text, FONT, size)[0] > PLATE - 2 * edge - 6:
        size -= 1
    width, height = extent(plate.text, FONT, size)
    field = width + 6, size + 5
    left = x + int(rng.integers(edge, PLATE - edge - field[0] + 1))
    top = y + int(rng.integers(top, PLATE - edge - field[1] + 1))
    page.rectangle((left, top, left + field[0], top + field[1]), fill=(paper, paper, paper))
    if not hides_text:
        page.text((left + 3, top + (field[1] - height) // 2), plate.text, FONT, size, (ink, ink, ink))


def table_color(rng: np.random.Generator) -> Color:
    """The gray behind plates."""
    gray = int(rng.integers(60, 91))
    return gray, gray, gray


def random_text(rng: np.random.Generator) -> str:
    """Three characters that are told from each other in every orientation."""
    return "".join(CHIRAL_ALPHABET[number] for number in rng.integers(0, len(CHIRAL_ALPHABET), 3))
