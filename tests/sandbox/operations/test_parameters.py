"""Values that pass a check are accepted by the library."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageDraw, ImageOps

from sandbox.operations import parameters as checks

NUMBERS = st.one_of(
    st.integers(-300, 300), st.floats(-300, 300), st.sampled_from([math.nan, math.inf, -math.inf, True, False])
)
ANYTHING = st.one_of(NUMBERS, st.text(max_size=4), st.none(), st.lists(NUMBERS, max_size=4).map(tuple))


@given(ANYTHING)
def test_numbers_are_finite_and_no_bools(value: Any) -> None:
    is_plain = type(value) in (int, float)
    assert checks.is_number(value) == (is_plain and math.isfinite(value))
    assert checks.is_integer(value) == (type(value) is int)
    assert checks.number(-2, 5)(value) == (is_plain and -2 <= value <= 5)
    assert checks.integer(-2, 5)(value) == (type(value) is int and -2 <= value <= 5)
    assert checks.odd(-3, 5)(value) == (type(value) is int and value in (-3, -1, 1, 3, 5))


def test_one_value_of_another_type_is_another() -> None:
    assert checks.only(1, "a")(1)
    assert not checks.only(1, "a")(1.0)
    assert not checks.only(1, "a")(True)
    assert checks.one_of(0, 2)(2)
    assert not checks.one_of(0, 1)(True)
    assert not checks.one_of(0, 2)(2.0)


COLORS = st.one_of(
    st.sampled_from(["red", "#fff", "#12345678", "rgb(1,2,3)", "rgba(1,2,3,4)", "hsl(10,20%,30%)", "nocolor", ""]),
    st.sampled_from([*ImageColor.colormap]),
    ANYTHING,
    st.tuples(*[st.integers(-1, 256)] * 3),
    st.tuples(*[st.integers(-1, 256)] * 4),
)


@given(COLORS, st.sampled_from(["RGB", "L"]))
def test_a_color_that_passes_is_one_to_pillow(value: Any, mode: str) -> None:
    if checks.is_color(value) and not (mode == "L" and isinstance(value, tuple)):
        drawn, fill = Image.new(mode, (4, 4)), 0 if value is None else value
        plain = Image.new(mode, (2, 2), fill)
        ImageDraw.Draw(drawn).rectangle((0, 0, 2, 2), fill=value, outline=fill)
        expanded = ImageOps.expand(Image.new(mode, (2, 2)), 1, fill)
        assert plain.getpixel((0, 0)) == drawn.getpixel((1, 1)) == expanded.getpixel((0, 0))


def test_colors_by_hand() -> None:
    assert all(map(checks.is_color, ["red", "#fff", (0, 255, 7), 255, 0, None]))
    assert not any(
        map(checks.is_color, ["#12345678", (0, 256, 7), (1, 2), (1, 2, 3, 4), 256, -1, True, 1.0, [1, 2, 3]])
    )


@given(st.tuples(*[st.integers(-20, 20)] * 4))
def test_boxes_and_corners_that_pass_are_in_order(box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    assert checks.is_box(box) == checks.is_corners(box) == (x1 <= x2 and y1 <= y2)
    assert checks.is_source_box(box) == (x1 < x2 and y1 < y2)
    if checks.is_box(box):
        assert Image.new("L", (8, 8)).crop(box).size == (x2 - x1, y2 - y1)
    if checks.is_corners(box):
        ImageDraw.Draw(Image.new("L", (8, 8))).ellipse(box)


@pytest.mark.parametrize("far", [1 << 14, -(1 << 14)])
def test_drawings_lie_near_the_image(far: int) -> None:
    assert checks.is_points((0, 0, far, 5))
    assert not checks.is_points((0, 0, far + (1 if far > 0 else -1), 5))


def test_lengths_and_ranges_at_their_ends() -> None:
    assert checks.is_points((0,) * 4)
    assert checks.is_points((0,) * 64)
    assert not checks.is_points((0,) * 2)
    assert not checks.is_points((0,) * 5)
    assert not checks.is_points((0,) * 66)
    assert checks.numbers(2)((1e6, -1e6))
    assert not checks.numbers(2)((1e6, 1.1e6))
    assert checks.is_border((0, 4096))
    assert not checks.is_border((0, 4097))
    assert not checks.is_border((1, 2, 3))
    assert checks.is_scalar((0, 255.0, 3, 4))
    assert not checks.is_scalar((0,) * 5)
    assert checks.is_ratio(1)
    assert not checks.is_ratio(0.999)
    assert checks.AUTO_KERNEL((0, 99))
    assert not checks.AUTO_KERNEL((0, 2))
    assert not checks.AUTO_KERNEL((0, 101))
    assert not checks.is_size((0, 3))
    assert checks.maybe(checks.is_integer)(None)
    assert not checks.pair(checks.is_integer)([1, 2])
