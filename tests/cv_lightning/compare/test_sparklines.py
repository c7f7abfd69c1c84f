"""Curves in characters."""

from __future__ import annotations

import pytest

from cv_lightning.compare.sparklines import sparklines
from cv_lightning.reports.metrics_log import Points


def line(*values: float, step: float = 1.0) -> Points:
    return [(place * step, value) for place, value in enumerate(values)]


def test_a_ramp_climbs_from_the_lowest_block_to_the_highest() -> None:
    (shown,) = sparklines({"a": [line(0.0, 1.0)]}, 8).values()
    assert shown == "▁▂▃▄▅▆▇█"


def test_groups_share_both_axes() -> None:
    shown = sparklines({"long": [line(0.0, 0.0, 0.0)], "short": [line(1.0, 1.0)]}, 10)
    assert shown == {"long": "▁" * 10, "short": "█" * 6 + " " * 4}


def test_runs_of_a_group_are_averaged() -> None:
    shown = sparklines({"mean": [line(0.0, 0.0), line(2.0, 2.0)], "low": [line(0.0, 0.0)], "high": [line(2.0, 2.0)]}, 4)
    assert set(shown["mean"]) == {"▅"}
    assert (set(shown["low"]), set(shown["high"])) == ({"▁"}, {"█"})


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [line(1.0, 1.0)]}, {"a": [[(0.0, 3.0)]]}])
def test_what_does_not_move_is_not_shown(series: dict[str, list[Points]]) -> None:
    assert sparklines(series, 8) == {}
