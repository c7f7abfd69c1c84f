"""Sequences are split into balanced micro-batches within a budget; sequences of one prompt stay together."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.types import TokenSequence
from modules.policy.micro_batches import packed_micro_batches, padded_micro_batches
from modules.policy.packed_row import prompt_groups

NO_IMAGE = -1


def rollouts(prompt: int, n_prompt: int, lengths: Sequence[int]) -> list[TokenSequence]:
    """Rollouts of one prompt; `lengths` gives the lengths of the replies."""
    found = []
    for length in lengths:
        tokens = TokenSequence()
        tokens.append([prompt] * n_prompt, is_trained=False)
        tokens.append([7] * length, is_trained=True)
        found.append(tokens)
    return found


def n_computed(sequences: Sequence[TokenSequence], row: Sequence[int]) -> int:
    return sum(group.n_tokens for group in prompt_groups([sequences[index] for index in row], NO_IMAGE))


def test_groups_stay_together_and_rows_weigh_alike() -> None:
    sequences = [s for prompt in range(4) for s in rollouts(prompt, 10, [5, 6, 7])]
    mixed = [sequences[index] for index in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11)]
    rows = packed_micro_batches(mixed, 60, NO_IMAGE)
    assert rows == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    assert [n_computed(mixed, row) for row in rows] == [56, 56], "of two prompts each, once"
    assert packed_micro_batches(mixed, 0, NO_IMAGE) == [list(range(12))]


def test_a_group_above_the_budget_is_divided_and_each_part_has_the_prompt() -> None:
    sequences = rollouts(1, 10, [5] * 6)
    rows = packed_micro_batches(sequences, 20, NO_IMAGE)
    assert rows == [[0, 1], [2, 3], [4, 5]]
    assert [n_computed(sequences, row) for row in rows] == [20, 20, 20]


def test_a_prompt_above_the_budget_is_computed_for_each_sequence_alone() -> None:
    assert packed_micro_batches(rollouts(1, 30, [5, 1]), 20, NO_IMAGE) == [[0], [1]]


def test_as_many_rows_as_other_ranks() -> None:
    sequences = [s for prompt in range(3) for s in rollouts(prompt, 10, [10])]
    assert packed_micro_batches(sequences, 0, NO_IMAGE, lambda n: max(n, 2)) == [[0, 2], [1]]
    assert packed_micro_batches(sequences, 0, NO_IMAGE, lambda n: max(n, 5)) == [[0], [1], [2], [], []]
    assert packed_micro_batches([], 50, NO_IMAGE, lambda n: max(n, 2)) == [[], []]
    assert padded_micro_batches([], 50, lambda n: max(n, 1)) == [[]]


LENGTHS = st.lists(st.integers(1, 60), max_size=12)


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), max_size=5), st.integers(1, 30), st.integers(1, 90)
)
def test_rows_fit_the_budget_and_hold_every_sequence_once(lengths: list[list[int]], n_prompt: int, budget: int) -> None:
    sequences = [s for prompt, each in enumerate(lengths, start=10) for s in rollouts(prompt, n_prompt, each)]
    rows = packed_micro_batches(sequences, budget, NO_IMAGE)
    assert sorted(index for row in rows for index in row) == list(range(len(sequences)))
    assert all(len(row) == 1 or n_computed(sequences, row) <= budget for row in rows)
    for group in prompt_groups(sequences, NO_IMAGE):
        if group.n_tokens <= budget:
            assert sum(bool({*group.members} & {*row}) for row in rows) == 1


@given(LENGTHS, st.integers(0, 200))
def test_at_most_a_twentieth_of_a_padded_batch_is_padding(lengths: list[int], budget: int) -> None:
    sequences = [s for prompt, length in enumerate(lengths) for s in rollouts(prompt, 0, [length])]
    parts = padded_micro_batches(sequences, budget)
    assert sorted(index for part in parts for index in part) == list(range(len(sequences)))
    for part in parts if budget else []:
        area = len(part) * max(len(sequences[index]) for index in part)
        assert len(part) == 1 or area <= budget
        assert sum(len(sequences[index]) for index in part) >= 0.95 * area
