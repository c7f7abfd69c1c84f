"""Plates of a board, and the plate that the question names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.data.source import generator
from cv_lightning.data.worlds.boards import (
    BOARD,
    CELL,
    COLUMNS,
    HEADER,
    NAMED_BY,
    PLACES,
    PLATE,
    ROWS,
    Board,
    Plate,
    lay_out,
)

indices = st.integers(0, 10_000)


def named(board: Board) -> list[Plate]:
    """The plates of a board that match its name, found from the name alone."""
    words = board.name.split()
    if "with" in words:
        return [plate for plate in board.plates if plate.mark == words[-1]]
    place = next((place for place in PLACES if f" {place} the " in board.name), None)
    if len(words) == 4:
        return [plate for plate in board.plates if (ROWS[plate.cell[1]], COLUMNS[plate.cell[0]]) == tuple(words[1:3])]
    if place is None:
        return [plate for plate in board.plates if plate.color == words[1]]
    (beside,) = (plate for plate in board.plates if plate.color == words[-2])
    cell = beside.cell[0] + PLACES[place][0], beside.cell[1] + PLACES[place][1]
    return [plate for plate in board.plates if plate.cell == cell]


@given(index=indices, n_plates=st.integers(1, 9), named_by=st.sampled_from(sorted(NAMED_BY)))
def test_the_named_plate_is_the_only_one_of_its_name(index: int, n_plates: int, named_by: str) -> None:
    board = lay_out(generator(0, "train", index), n_plates, named_by)
    assert named(board) == [board.target]
    assert len(board.plates) == n_plates
    for facts in ("cell", "color", "text"):
        assert len({getattr(plate, facts) for plate in board.plates}) == n_plates


@given(index=indices, n_plates=st.integers(1, 9))
def test_plates_lie_in_their_cells_below_the_header(index: int, n_plates: int) -> None:
    for plate in lay_out(generator(1, "train", index), n_plates, "color").plates:
        x1, y1, x2, y2 = plate.box
        assert (x2 - x1, y2 - y1) == (PLATE, PLATE)
        assert plate.cell[0] * CELL[0] <= x1
        assert x2 <= (plate.cell[0] + 1) * CELL[0] <= BOARD
        assert HEADER + plate.cell[1] * CELL[1] <= y1
        assert y2 <= HEADER + (plate.cell[1] + 1) * CELL[1] <= BOARD
