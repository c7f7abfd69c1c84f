"""Sums and logged metrics of reward components."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.reward_components import RewardComponents, component_metrics, family_metrics
from callbacks.tool_usage import ToolUsage
from callbacks.trajectories import Trajectories
from cv_lightning.types import Group
from tests.callbacks.steps import SAMPLE, Learner, fit, paid, trajectory


def test_shares_and_correlations_of_a_group_worked_out_by_hand() -> None:
    # Totals 1.5, 1.0, 0.5, 0.0, deviations .75 .25 -.25 -.75: variance sum 1.25. "accuracy" deviates by .5 .5 -.5 -.5:
    # product with the total .375 + .125 + .125 + .375 = 1.0; "exact" by .25 -.25 .25 -.25: .25.
    group = [
        paid(True, accuracy=1.0, exact=0.5),
        paid(True, accuracy=1.0, exact=0.0),
        paid(False, accuracy=0.0, exact=0.5),
        paid(False, accuracy=0.0, exact=0.0),
    ]
    metrics = component_metrics([group, [paid(None, accuracy=9.0, exact=9.0)]])
    assert metrics == pytest.approx(
        {
            "components/std/accuracy": 0.5,
            "components/std/exact": 0.25,
            "components/share/accuracy": 0.8,
            "components/share/exact": 0.2,
            "components/correlation/accuracy": 1.0,
            "components/correlation/exact": 0.0,
        }
    )


def test_variance_between_groups_explains_no_advantage() -> None:
    metrics = component_metrics([[paid(accuracy=1.0)] * 2, [paid(False, accuracy=0.0)] * 2])
    assert metrics["components/std/accuracy"] == 0.5
    assert not [name for name in metrics if "share" in name]


@given(
    st.lists(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_shares_add_up_to_one(values: list[list[tuple[float, float]]]) -> None:
    metrics = component_metrics([[paid(a=a, b=b) for a, b in group] for group in values])
    shares = [value for name, value in metrics.items() if "share" in name]
    assert not shares or sum(shares) == pytest.approx(1.0, abs=1e-6)


def test_families_have_means_of_their_own() -> None:
    metrics = family_metrics(["plates", "chart"], [[paid(True, a=1.0), paid(False, a=0.0)], [paid(None, a=1.0)]])
    expected = {
        "components/reward/plates": 0.5,
        "components/accuracy/plates": 0.5,
        "components/mean/a/plates": 0.5,
        "components/std/a/plates": 0.5,
        "components/share/a/plates": 1.0,
        "components/correlation/a/plates": 1.0,
    }
    assert metrics == pytest.approx(expected)


def test_only_rollouts_of_the_training_step_are_shown(tmp_path: Path) -> None:
    group = Group(SAMPLE, [trajectory(), trajectory()])
    first, second, third = fit(tmp_path, Learner([None, group, None]), 3, RewardComponents(), ToolUsage())
    assert not first
    assert second["components/share/accuracy"] == 1.0
    assert second["tools/calls"] == 0.0
    assert not third


def test_a_module_without_rollouts_logs_nothing(tmp_path: Path) -> None:
    assert fit(tmp_path, Learner([]), 1, RewardComponents(), ToolUsage(), Trajectories(tmp_path / "t")) == [{}]
    assert not (tmp_path / "t").exists()
