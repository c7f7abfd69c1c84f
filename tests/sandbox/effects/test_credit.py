"""Credit of operations, by hand: identical pixels earn nothing, a move earns what it shows at the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sandbox.effects.credit import NO_EFFECT, Credit, Effects
from sandbox.geometry import Affine, Size
from sandbox.operations.operation import Operation

Done = tuple[str, tuple[object, ...], Size]


def earned(*done: Done, unchanged: Sequence[int] = (), is_source: bool = False, is_plain: bool = False) -> Effects:
    """Credit of operations (name, values, size after) on an image of 40 x 20 pixels."""
    credit = Credit((40, 20))
    for place, (name, values, after) in enumerate(done):
        credit.add(Operation(name, values), after, lambda place=place: place not in unchanged)  # type: ignore[misc]
    return credit.effects(lambda: is_source, lambda: is_plain)


INVERT: Done = ("ImageOps.invert", (), (40, 20))
TURN: Done = ("orient", ("rotate_90",), (20, 40))
CROP: Done = ("Image.crop", ((10, 5, 30, 15),), (20, 10))


def test_nothing_is_earned_by_nothing() -> None:
    assert earned() == NO_EFFECT
    assert earned(INVERT, unchanged=[0]) == NO_EFFECT
    assert earned(INVERT, INVERT, is_source=True) == NO_EFFECT


def test_a_move_names_itself_and_places_the_image() -> None:
    assert earned(TURN) == Effects(("rotate_90",), "rotate_90", Affine(0, -1, 40, 1, 0, 0))
    assert earned(CROP) == Effects(("crop",), "identity", Affine(c=10, f=5))
    turned_crop = earned(CROP, ("orient", ("rotate_180",), (20, 10)))
    assert turned_crop.tools == ("crop", "rotate_180")
    assert turned_crop.frame is not None
    assert turned_crop.frame.box((0, 0, 20, 10)) == (10, 5, 30, 15)


@pytest.mark.parametrize(("turns", "net"), [(2, "rotate_180"), (3, "rotate_270")])
def test_turns_count_by_their_net(turns: int, net: str) -> None:
    sizes: list[Size] = [(20, 40), (40, 20), (20, 40)]
    assert earned(*[("orient", ("rotate_90",), size) for size in sizes[:turns]]).tools == (net,)


def test_a_border_that_is_cut_off_again_is_no_pad() -> None:
    border: Done = ("ImageOps.expand", (4, 0), (48, 28))
    assert earned(border).tools == ("pad",)
    assert earned(border, ("Image.crop", ((4, 4, 44, 24),), (40, 20))).tools == ()
    assert earned(border, ("Image.crop", ((14, 9, 34, 19),), (20, 10))).tools == ("crop",)


def test_a_resize_by_a_box_is_a_crop() -> None:
    part: Done = ("Image.resize", ((40, 20), 2, (0, 0, 20, 10), None), (40, 20))
    assert set(earned(part).tools) == {"crop", "resize"}


def test_colors_that_undo_each_other_earn_nothing() -> None:
    assert earned(INVERT, ("Image.convert", ("L",), (40, 20))).tools == ("invert", "grayscale")
    assert earned(INVERT, INVERT, TURN, is_plain=True).tools == ("rotate_90",)
