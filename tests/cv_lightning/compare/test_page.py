"""The page of a comparison: tables as in the terminal, and figures of curves that change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cv_lightning.compare.comparison import Comparison
from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.page import page
from cv_lightning.compare.run import Run
from cv_lightning.compare.summary import Metric, Value

Curves = dict[str, list[tuple[float, float]]]


def comparison(*of_groups: Curves, minutes: Sequence[tuple[float, float]] = (), **parts: Any) -> Comparison:
    runs = [Run("r", "r", curves=curves, minutes=[*minutes]) for curves in of_groups]
    groups = [RunGroup(f"<{place}>", [run]) for place, run in enumerate(runs)]
    empty: dict[str, Any] = {"differing": {}, "metrics": {}, "shown": [], "conditions": {}, "paired": []}
    return Comparison(groups, **(empty | {"answer_tools": {}, "notes": []} | parts))


def n_figures(html: str) -> int:
    return len(re.findall("<svg", html))


def test_names_of_runs_are_text_and_many_are_cut() -> None:
    html = page(comparison(*[{}] * 5))
    assert "&lt;0&gt; against &lt;1&gt; against &lt;2&gt; and more" in html
    assert "<0>" not in html
    assert "and more" not in page(comparison({}, {}))


def test_a_curve_is_drawn_if_it_changes_over_steps_and_over_time() -> None:
    flat = [(0.0, 1.0), (1.0, 1.0)]
    rising = [(0.0, 1.0), (1.0, 2.0)]
    assert n_figures(page(comparison({"a": flat, "b": flat}, shown=["a", "b"]))) == 0
    only_steps = page(comparison({"a": rising}, {"a": flat}, shown=["a"]))
    assert n_figures(only_steps) == 1, "without times there are no minutes"
    assert "Curves over wall time" not in only_steps
    with_minutes = page(comparison({"a": rising}, shown=["a"], minutes=[(0.0, 1.0), (1.0, 2.0)]))
    assert n_figures(with_minutes) == 2
    assert "Curves over wall time" in with_minutes


def test_reward_terms_are_drawn_though_nobody_asked() -> None:
    curves = {"reward/format": [(0.0, 0.0), (1.0, 0.5)]}
    metrics: Any = {"reward/format": [Metric(Value(0.5, None, [0.5]), None, None)]}
    assert n_figures(page(comparison(curves, metrics=metrics))) == 1


def test_bars_are_of_the_orientations_and_of_the_mean_if_there_is_nothing_else() -> None:
    half = Value(0.5, (0.4, 0.6), [0.5])
    orientations: Any = {"accuracy": {"upright": [half], "rot90": [None], "mean": [half]}}
    assert n_figures(page(comparison({}, conditions=orientations))) == 1
    mean: Any = {"accuracy": {"mean": [half]}}
    assert n_figures(page(comparison({}, conditions=mean))) == 1
    assert n_figures(page(comparison({}))) == 0
