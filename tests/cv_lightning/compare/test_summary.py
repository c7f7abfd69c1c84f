"""Windows, directions and grids of curves."""

from __future__ import annotations

import pytest

from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run
from cv_lightning.compare.summary import direction, on_grid, summarize, windows


def test_windows_are_a_twentieth_of_a_curve() -> None:
    points = [(float(step), float(step)) for step in range(40)]
    assert windows(points)[-1] == (39.0, 38.5)
    assert windows([(7.0, 3.0)]) == [(7.0, 3.0)]
    group = RunGroup("a", [Run("a", "a", curves={"train/loss": [(0.0, 3.0), (1.0, 1.0), (2.0, 2.0)]})])
    loss = summarize(group, "train/loss")
    assert loss is not None
    assert loss.best is not None
    assert (loss.final.mean, loss.best.mean, loss.best_step) == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        *[("reward/total", 1), ("val/accuracy/mean", 1), ("test/right_after_error/rot90", 1)],
        *[("train/loss", -1), ("test/error_rate/mean", -1), ("tools/error/timeout", -1), ("rollout/turns", 0)],
    ],
)
def test_what_is_better(name: str, sign: int) -> None:
    assert direction(name) == sign


def test_a_grid_is_of_what_all_curves_span() -> None:
    first, second = on_grid([[(0.0, 0.0), (10.0, 10.0)], [(5.0, 1.0), (20.0, 1.0)]], n=6)
    assert [place for place, _ in first] == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert [value for _, value in first] == pytest.approx([5, 6, 7, 8, 9, 10])
    assert {value for _, value in second} == {1.0}
