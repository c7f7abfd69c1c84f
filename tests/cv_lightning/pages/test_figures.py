"""Figures: names are text, colors are variables of the page, and each value is at its place."""

from __future__ import annotations

import math
import re

from cv_lightning.pages.figures import bars, curves

HOSTILE = "<script>$x$&"


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_name_is_text_and_no_formula() -> None:
    svg = bars({"a": {HOSTILE: 0.5}}, {"a": 1}, y_label=HOSTILE)
    assert texts(svg).count("&lt;script&gt;$x$&amp;") == 2
    assert "<script" not in svg


def test_bars_give_percents_and_leave_out_what_is_no_number() -> None:
    svg = bars({"a": {"x": 0.25, "y": math.nan}, "b": {"x": 1.0}}, {"a": 1, "b": 9})
    assert {"25", "100"} <= set(texts(svg))
    assert "nan" not in svg
    assert "var(--stage-1)" in svg
    assert "#0a0b" not in svg


def test_log_axes_have_plain_numbers() -> None:
    svg = curves({"a": [[(0.0, 2.0), (1.0, 0.02)]]}, {"a": 0}, is_log=True)
    assert {"0.05", "0.5", "2"} <= set(texts(svg))


def test_several_seeds_have_a_range_and_one_seed_has_its_points() -> None:
    one = curves({"a": [[(0.0, 1.0), (1.0, 2.0)]]}, {"a": 0})
    several = curves({"a": [[(0.0, 1.0), (1.0, 2.0)], [(0.0, 3.0), (1.0, 4.0)]]}, {"a": 0})
    assert "opacity: 0.3" in one
    assert "opacity: 0.2" in several
