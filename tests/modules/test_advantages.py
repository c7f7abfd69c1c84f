"""Advantages against tables worked out by hand, and against their invariants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from modules.advantages import group_advantages, has_spread, largest_spreads
from tests.modules.loss_tensors import table

NAN = float("nan")
KINDS = ["grpo", "dr_grpo", "rloo"]
rewards = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8)


# --- groups ---


def test_largest_spreads_by_hand() -> None:
    # standard deviations 0, 1, 0.5 and 1, and 2 for the two judged rewards of the last group
    rewards_PG = table([[1, 1, 1, 1], [0, 2, 0, 2], [0, 1, 0, 1], [3, 1, 3, 1], [NAN, 4, NAN, 0]])
    assert [largest_spreads(rewards_PG, n) for n in range(1, 6)] == [
        [4],
        [1, 4],
        [1, 3, 4],
        [1, 2, 3, 4],
        [0, 1, 2, 3, 4],
    ]
    assert largest_spreads(table([[NAN, NAN], [0, 1]]), 1) == [1]


# --- advantages ---


def test_grpo_advantages_by_hand() -> None:
    # mean 0.5, unbiased standard deviation sqrt(4 * 0.25 / 3)
    std = math.sqrt(1 / 3)
    expected = [0.5 / (std + 1e-4), -0.5 / (std + 1e-4), -0.5 / (std + 1e-4), 0.5 / (std + 1e-4)]
    assert_close(group_advantages(table([[1, 0, 0, 1]])), table([expected]))


def test_dr_grpo_advantages_by_hand() -> None:
    assert_close(group_advantages(table([[2, 0, 1, 1]]), "dr_grpo"), table([[1, -1, 0, 0]]))


def test_rloo_advantages_by_hand() -> None:
    # 2 - mean(0, 1) = 1.5; 0 - mean(2, 1) = -1.5; 1 - mean(2, 0) = 0
    assert_close(group_advantages(table([[2, 0, 1]]), "rloo"), table([[1.5, -1.5, 0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unjudged_rollout_gets_zero_and_does_not_move_the_others(kind: Any) -> None:
    with_failure = group_advantages(table([[1, NAN, 0, 0]]), kind)
    without = group_advantages(table([[1, 0, 0]]), kind)
    assert with_failure[0, 1] == 0
    assert_close(with_failure[0, [0, 2, 3]], without[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [[1, 1, 1], [NAN, NAN, NAN], [NAN, 1, NAN], [0.1 + 0.2, 0.3, 0.3]])
def test_a_group_without_spread_gets_exact_zeros(kind: Any, row: list[float]) -> None:
    assert group_advantages(table([row]), kind).tolist() == [[0, 0, 0]]


def test_has_spread() -> None:
    groups = table([[1, 1, 1], [1, 0, 1], [NAN, 1, 1], [NAN, 1, 0], [NAN, NAN, NAN], [NAN, NAN, 3]])
    assert has_spread(groups).tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize("shape", [(3, 1), (3,), (0, 1)])
def test_a_group_of_one_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rewards_PG: expected \[P, G\]"):
        group_advantages(torch.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
@given(row=rewards, shift=st.floats(-10, 10, width=32))
def test_advantages_sum_to_zero_and_ignore_a_shift(kind: Any, row: list[float], shift: float) -> None:
    advantages = group_advantages(table([row]), kind)
    assert advantages.sum().abs() < 1e-6
    if (max(row) - min(row)) > 1e-3:  # a shift may round a smaller spread away
        assert_close(group_advantages(table([row]) + shift, kind), advantages, atol=1e-4, rtol=1e-4)


@given(row=rewards, scale=st.floats(0.5, 4))
def test_grpo_ignores_the_scale_of_rewards_and_dr_grpo_keeps_it(row: list[float], scale: float) -> None:
    plain, scaled = table([row]), table([row]) * scale
    assert_close(group_advantages(scaled, "dr_grpo"), group_advantages(plain, "dr_grpo") * scale, atol=1e-5, rtol=1e-5)
    if plain.std() > 0.1:
        assert_close(group_advantages(scaled), group_advantages(plain), atol=1e-2, rtol=1e-2)
