"""Sizes and frames, compared with the libraries and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sandbox.operations.arrays import Table
from sandbox.operations.operation import State
from sandbox.operations.outputs import borders, contained_size, pad_frame, rotation, rounded_box, warp_frame

SIDES = st.integers(1, 60)
SIZES = st.tuples(SIDES, SIDES)


@given(SIZES, st.floats(-400, 400), st.booleans())
def test_the_size_of_a_rotation_is_pillows(size: tuple[int, int], angle: float, is_expanded: bool) -> None:
    if angle % 90 == 0:  # Pillow turns whole pixels
        angle += 0.5
    found, _ = rotation((angle, 0, is_expanded, None, None, None), size)
    assert found == Image.new("L", size).rotate(angle, expand=is_expanded).size


def test_the_frame_of_a_rotation_keeps_its_centre() -> None:
    (wide, high), frame = rotation((30, 0, True, None, None, None), (40, 20))
    assert frame.point(wide / 2, high / 2) == pytest.approx((20, 10))
    size, frame = rotation((30, 0, False, (5, 6), (2, 3), None), (40, 20))
    assert (size, frame.point(5 + 2, 6 + 3)) == ((40, 20), pytest.approx((5, 6)))


@given(SIZES, SIZES)
def test_a_contained_size_is_pillows(size: tuple[int, int], within: tuple[int, int]) -> None:
    expected = contained_size(size, within)
    if min(expected) > 0:
        assert ImageOps.contain(Image.new("L", size), within).size == expected


def test_a_padded_frame_by_hand() -> None:
    frame = pad_frame(((40, 40), 3, None, (0.5, 1.0)), (20, 10))  # 20 x 10 becomes 40 x 20, at the bottom
    assert frame is not None
    assert (frame.point(0, 20), frame.point(40, 40)) == ((0, 0), (20, 10))
    assert pad_frame(((1, 900), 3, None, (0.5, 0.5)), (9000, 1)) is None


def test_boxes_are_rounded_half_to_even_and_borders_are_four() -> None:
    assert rounded_box((0.5, 1.5, 2.5, 3.49)) == (0, 2, 2, 3)
    assert [borders(border) for border in (3, (1, 2), (1, 2, 3, 4))] == [(3,) * 4, (1, 2, 1, 2), (1, 2, 3, 4)]


def test_a_warp_maps_centres_to_centres() -> None:
    shift = warp_frame((Table(((1.0, 0.0, 3.0), (0.0, 1.0, -2.0)), "float64"),), (9, 9))
    assert shift is not None
    assert shift.point(3.5, 0.5) == (0.5, 2.5)
    doubled = warp_frame((Table(((2.0, 0.0, 0.0), (0.0, 2.0, 0.0)), "float64"),), (9, 9))
    assert doubled is not None
    assert doubled.point(4.5, 6.5) == (2.5, 3.5)  # pixel (4, 6) shows pixel (2, 3)
    assert warp_frame((Table(((1.0, 2.0, 0.0), (2.0, 4.0, 0.0)), "float64"),), (9, 9)) is None


def test_state_is_size_and_mode() -> None:
    image = Image.fromarray(np.zeros((2, 3), np.uint8))
    assert State(image.size, image.mode) == State((3, 2), "L")
