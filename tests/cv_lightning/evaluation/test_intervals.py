"""Intervals against the normal approximation and the exact binomial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.evaluation.intervals import accuracy_interval, bootstrap_interval, nested_interval


def test_bootstrap_interval_of_a_known_share() -> None:
    values = [1.0] * 80 + [0.0] * 20
    low, high = bootstrap_interval(values, n_resamples=4000)
    # The normal interval of 0.8 over 100 is 0.8 +- 1.96 * 0.04.
    assert low == pytest.approx(0.8 - 0.0784, abs=0.02)
    assert high == pytest.approx(0.8 + 0.0784, abs=0.02)


def test_bootstrap_interval_is_seeded_and_needs_no_spread() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert bootstrap_interval([0.3]) == (0.3, 0.3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bootstrap_interval_lies_in_the_values(values: list[float]) -> None:
    low, high = bootstrap_interval(values, n_resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_bootstrap_interval_needs_a_value() -> None:
    with pytest.raises(ValueError, match="values: expected at least one"):
        bootstrap_interval([])


def test_accuracies_between_are_resampled_and_the_ends_are_exact() -> None:
    assert accuracy_interval([1.0] * 40) == pytest.approx((0.025 ** (1 / 40), 1.0))
    assert accuracy_interval([0.0] * 40) == pytest.approx((0.0, 1 - 0.025 ** (1 / 40)))
    assert accuracy_interval([1.0, 0.0, 1.0]) == bootstrap_interval([1.0, 0.0, 1.0])


def test_a_nested_interval_of_one_seed_is_that_of_its_questions() -> None:
    scores = [1.0] * 70 + [0.0] * 30
    mean, low, high = nested_interval([scores])
    assert mean == pytest.approx(0.7)
    expected = bootstrap_interval(scores)
    assert (low, high) == pytest.approx(expected, abs=0.02)


def test_seeds_that_differ_widen_a_nested_interval() -> None:
    alike = nested_interval([[1.0, 0.0] * 100, [1.0, 0.0] * 100])
    apart = nested_interval([[1.0] * 190 + [0.0] * 10, [1.0] * 10 + [0.0] * 190])
    assert alike[0] == apart[0] == 0.5
    assert apart[2] - apart[1] > 5 * (alike[2] - alike[1])


def test_all_or_none_is_no_certainty_but_for_differences() -> None:
    assert nested_interval([[1.0] * 20, [1.0] * 20])[1:] == pytest.approx(accuracy_interval([1.0] * 40))
    assert nested_interval([[0.0] * 20], is_difference=True) == (0.0, 0.0, 0.0)
    assert nested_interval([[], [0.5]], is_difference=True) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="at least one value"):
        nested_interval([[], []])
