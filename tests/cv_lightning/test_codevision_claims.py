"""Tools and boxes that the release's rules read from a call, against a table worked out by hand from its source."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.codevision_claims import claimed_boxes, claimed_tools

#: The table of docs/rewards.md: (code, description) -> (tools, boxes).
IDIOMS: list[tuple[str, str, set[str], list[tuple[float, ...]]]] = [
    # angles: numbers and arithmetic, within 5 degrees, modulo 360; no names
    ("image.rotate(90, expand=True)", "", {"rotate_90"}, []),
    ("image.rotate(-90)", "", {"rotate_270"}, []),
    ("image.rotate(2 * 90 + 4)", "", {"rotate_180"}, []),
    ("image.rotate(85)", "", {"rotate_90"}, []),
    ("image.rotate(84.9)", "", set(), []),
    ("image.rotate(900)", "", {"rotate_180"}, []),
    ("angle = 90\nimage.rotate(angle)", "", set(), []),
    ("image.rotate(angle=90)", "", set(), []),
    # other ways to turn
    ("image.transpose(Image.ROTATE_90)", "", {"rotate_90"}, []),
    ("image.transpose(Image.Transpose.ROTATE_90)", "", set(), []),
    ("np.rot90(a)", "", {"rotate_90"}, []),
    ("np.rot90(a, k=-1)", "", {"rotate_270"}, []),
    ("np.rot90(a, 3)", "", {"rotate_90"}, []),
    ("np.rot90(np.array(image), k=3)", "", {"rotate_90"}, []),
    ("cv2.rotate(a, cv2.ROTATE_90_CLOCKWISE)", "", {"rotate_270"}, []),
    ("cv2.rotate(np.array(image), cv2.ROTATE_180)", "", set(), []),
    # mirrors
    ("ImageOps.mirror(image)", "", {"flip_horizontal"}, []),
    ("image.transpose(Image.FLIP_TOP_BOTTOM)", "", {"flip_vertical"}, []),
    ("cv2.flip(a, 1); np.fliplr(a)", "", set(), []),
    # crops: values that earlier lines assigned, with arithmetic
    ("image.crop((1, 2, 3.5, 4))", "", {"crop"}, [(1, 2, 3.5, 4)]),
    ("box = (10, 20, 30, 40)\nimage.crop(box)", "", {"crop"}, [(10, 20, 30, 40)]),
    ("x, y = 5, 6\nw = 2 * x\nimage.crop((x, y, x + w, max(y, 9)))", "", {"crop"}, [(5, 6, 15, 9)]),
    ("box = (1, 2, 3, 4); image.crop(box)", "", set(), []),
    ("image.crop((0, 0, image.width // 2, 9))", "", set(), []),
    ("a[10:20, 30:40]", "", set(), []),
    ("# image.crop((1, 2, 3, 4))\nresult = (", "", {"crop"}, [(1, 2, 3, 4)]),
    # tools outside the core
    ("ImageEnhance.Contrast(image).enhance(2)", "", {"enhance"}, []),
    ("image.resize((9, 9))", "", {"resize"}, []),
    ("image.resize((9, 9), Image.LANCZOS)", "", set(), []),
    ("image.convert('L').filter(ImageFilter.FIND_EDGES)", "", {"grayscale", "filter"}, []),
    # words: a flip with its direction, a horizontal mirror, a crop, and the first box in brackets if the code has none
    ("", "Mirror it horizontally", {"flip_horizontal"}, []),
    ("", "Mirror it vertically", set(), []),
    ("", "rotate_270, rotate by 90 degrees", set(), []),
    ("", "crop [0, 0, 10, 10] or (1, 1, 2, 2)", {"crop"}, [(0, 0, 10, 10)]),
    ("image.crop((1, 2, 3, 4))", "crop [0, 0, 10, 10]", {"crop"}, [(1, 2, 3, 4)]),
]


@pytest.mark.parametrize(("code", "description", "tools", "boxes"), IDIOMS, ids=range(len(IDIOMS)))
def test_idioms_by_hand(code: str, description: str, tools: set[str], boxes: list[Any]) -> None:
    assert claimed_tools(code, description) == tools
    assert claimed_boxes(code, description) == boxes


@pytest.mark.parametrize(
    ("code", "boxes"),
    [
        ("x = 1\nx += 2\nx: int = x * 2\nimage.crop((0, 0, x, x / 4))", [(0, 0, 6, 1.5)]),
        ("if False:\n    x = 9\nimage.crop((0, 0, x, x))", [(0, 0, 9, 9)]),  # dead code assigns
        ("x = 9\nx = f()\nimage.crop((0, 0, x, x))", [(0, 0, 9, 9)]),  # an unknown value leaves x unchanged
        ("a = b = 3\nimage.crop([a, b, int(4.7), round(5.26, 1)])", [(3, 3, 4, 5.3)]),
        ("image.crop(tuple([1, 2, abs(-3), min(4, 5)]))", [(1, 2, 3, 4)]),
        ("image.crop((7 % 4, 7 // 4, +3, -4))", [(3, 1, 3, -4)]),
        ("image.crop((1, 2, 3))\nimage.crop(((1, 2), 2, 3, 4))\nimage.crop('1234')\nimage.crop(box=(1, 2, 3, 4))", []),
        ("image.crop((1 / 0, 2, 3, 4))\nimage.crop((2 ** 2, 2, 3, 4))\nimage.crop((True, 2, 3, 4))", [(1, 2, 3, 4)]),
        (
            "image.crop((1, 2, 3, 4))\nimage.crop((1.0, 2, 3, 4))\nimage.crop((5, 6, 7, 8))",
            [(1, 2, 3, 4), (5, 6, 7, 8)],
        ),
        ("b = (5, 6, 7, 8)\nimage.crop(b).crop((1, 2, 3, 4))", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    ],
)
def test_boxes_by_hand(code: str, boxes: list[Any]) -> None:
    assert sorted(claimed_boxes(code)) == boxes


@pytest.mark.parametrize(
    ("code", "tools", "boxes"),
    [
        ("-" * 20000 + "1", set(), []),
        ("image.rotate(" + "(" * 3000, set(), []),
        ("image.crop(" + "[" * 99, {"crop"}, []),
        ("x = '\\d'\n1 is 1", set(), []),
        ("image.crop((1e999,2,3,4))", {"crop"}, [(math.inf, 2, 3, 4)]),
    ],
    ids=["minus", "turn", "crop", "warns", "large"],
)
def test_no_code_raises_or_warns(code: str, tools: set[str], boxes: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert claimed_tools(code, code) == tools
        assert claimed_boxes(code, code) == boxes


PIECES = [
    "image",
    ".crop(",
    ".rotate(",
    "(",
    ")",
    "[",
    "]",
    ",",
    "=",
    "\n",
    "x",
    "1",
    "2.5",
    " ",
    "-",
    "+",
    "/",
    "0",
    "round",
    "'",
]


@given(code=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_a_box_is_four_numbers_and_comes_with_a_crop(code: str) -> None:
    boxes = claimed_boxes(code)
    assert all(len(box) == 4 for box in boxes)
    assert ("crop" in claimed_tools(code)) == bool(boxes)
