"""Boards of colored plates: pages that need strategy. The layout is computed before the page is drawn.

A board is three by three cells below a header, a strip with a badge on the left. The header shows the orientation even
if no text can be read. A plate holds three characters and is named by its cell, its color, its place beside another
plate, or its mark; the name is unique on its board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cv_lightning.data.worlds.families import NamedCrop
from cv_lightning.data.worlds.page import Color, Page, extent
from cv_lightning.data.worlds.plates import CHIRAL_ALPHABET
from cv_lightning.types import Box

#: Logical pixels: side of a board, side of a plate, (width, height) of a cell, height of the header, step of positions.
#: With these sizes, each plate fills most of one of the nine visual tokens of a policy that sees the board at 84 x 84
#: pixels. If two tokens shared a plate, a small policy did not learn places in 340 steps.
BOARD, PLATE, CELL, HEADER, STEP = 252, 63, (84, 77), 21, 7
#: Height of the strip in the header.
STRIP = 14
#: Font sizes (smallest, largest) on a board, on a single plate, and on a large plate.
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
#: Places beside a plate, as offsets in cells (columns, rows).
PLACES: Mapping[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
#: Marks that stay visible if the text is too small to read.
MARKS = ("frame", "bar")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
#: Weight of each property for naming a plate. A cell says where to crop; otherwise the policy must see the plate.
NAMED_BY = {"mark": 5.0, "cell": 4.0, "color": 0.5, "place": 0.5}


@dataclass(frozen=True)
class Plate:
    """A plate of a board.

    Attributes:
        cell: Column and row.
        at: (left, top) within its board, in logical pixels.
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
    """Plates in the order of their cells, and the target of the question.

    Attributes:
        plates: The plates; their cells, colors and texts are all different.
        asked: Index of the target among the plates.
        name: Name of the target, such as "the red plate".
        label: Short name of the target, such as "red".
    """

    plates: tuple[Plate, ...]
    asked: int
    name: str
    label: str

    @property
    def target(self) -> Plate:
        """The plate that the question asks for."""
        return self.plates[self.asked]

    @property
    def crop(self) -> NamedCrop:
        """The crop that shows the target."""
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
    """(index of a plate, its place, index of the plate beside it) for all neighbors."""
    numbers = {plate.cell: number for number, plate in enumerate(plates)}
    return [
        (numbers[neighbor], place, number)
        for (column, row), number in numbers.items()
        for place, (dx, dy) in PLACES.items()
        if (neighbor := (column + dx, row + dy)) in numbers
    ]


def draw_board(page: Page, rng: np.random.Generator, at: tuple[int, int], board: Board) -> Box:
    """Draw a board with its top left corner at `at`, and return the box of its target on the page."""
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
    """Draw a plate with its top left corner at `at`: its color, its mark, and its text on a pale field."""
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
    """The gray background of plates."""
    gray = int(rng.integers(60, 91))
    return gray, gray, gray


def random_text(rng: np.random.Generator) -> str:
    """Three characters that can be distinguished from each other in every orientation."""
    return "".join(CHIRAL_ALPHABET[number] for number in rng.integers(0, len(CHIRAL_ALPHABET), 3))
