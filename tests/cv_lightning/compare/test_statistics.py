"""Tests and intervals against other libraries, enumeration and values by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.compare.statistics import holm, interval_of_questions, mcnemar_exact, sign_flip_test


def interval_of_means(of_runs: list[list[float]]) -> tuple[float, float] | None:
    """The interval for runs that share no question."""
    return interval_of_questions([{(run, n): value for n, value in enumerate(of)} for run, of in enumerate(of_runs)])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(only_first: int, only_second: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    n = only_first + only_second
    expected = stats.binomtest(only_first, n).pvalue if n else 1.0
    assert mcnemar_exact(only_first, only_second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(0, 5) == 2 / 32
    assert mcnemar_exact(4, 4) == 1.0
    assert 0 < mcnemar_exact(0, 5000) < 1e-300 or mcnemar_exact(0, 5000) == 0.0


def test_sign_flips_agree_with_all_flips() -> None:
    differences = [0.5, -0.25, 1.0, 0.75, 0.0, 0.5, -0.1]
    observed = abs(sum(differences))
    signs = list(itertools.product((-1, 1), repeat=len(differences)))
    far = [abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= observed - 1e-12 for sign in signs]
    assert sign_flip_test(differences) == pytest.approx(sum(far) / len(far), abs=0.015)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30))
def test_sign_flips_of_single_questions_are_mcnemar(differences: list[float]) -> None:
    exact = mcnemar_exact(differences.count(-1.0), differences.count(1.0))
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.02)


def test_sign_flips_do_not_care_for_the_direction_and_are_never_zero() -> None:
    assert sign_flip_test([1.0] * 200) == pytest.approx(1 / 20_001)
    assert sign_flip_test([-1.0] * 200) == sign_flip_test([1.0] * 200)
    assert sign_flip_test([0.0, 0.0]) == 1.0


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_is_monotone_and_between_p_and_bonferroni(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1.0, len(p_values) * p) or adjusted[name] >= p
    ordered = [adjusted[name] for name in sorted(p_values, key=lambda name: p_values[name])]
    assert ordered == sorted(ordered)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def test_an_interval_needs_two_values() -> None:
    assert interval_of_means([]) is None
    assert interval_of_means([[0.3]]) is None
    assert interval_of_means([[], [0.3]]) is None


def test_an_interval_of_seeds_spans_no_more_than_the_seeds() -> None:
    low, high = interval_of_means([[0.1], [0.2], [0.6]]) or (0.0, 0.0)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.6)


def test_an_interval_of_questions_is_that_of_the_normal_approximation() -> None:
    scores = [1.0] * 180 + [0.0] * 120
    low, high = interval_of_means([scores]) or (0.0, 0.0)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 300)
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.01)


def test_seeds_that_differ_widen_the_interval_of_their_questions() -> None:
    alike = interval_of_means([[1.0] * 60 + [0.0] * 40] * 3) or (0.0, 0.0)
    unlike = interval_of_means([[1.0] * n + [0.0] * (100 - n) for n in (30, 60, 90)]) or (0.0, 0.0)
    assert unlike[1] - unlike[0] > 2 * (alike[1] - alike[0])


def test_questions_that_all_seeds_were_asked_count_once() -> None:
    scores = {str(n): float(n % 2) for n in range(40)}
    once, thrice = interval_of_questions([scores]) or (0.0, 0.0), interval_of_questions([scores] * 3) or (0.0, 0.0)
    assert thrice[1] - thrice[0] == pytest.approx(once[1] - once[0], abs=0.04)
    apart = interval_of_means([list(scores.values())] * 3) or (0.0, 0.0)
    assert apart[1] - apart[0] < 0.75 * (once[1] - once[0])
