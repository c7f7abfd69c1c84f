"""The learned tokens of a trajectory, and trajectories that count as one sequence."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.types import Sample, StopReason, TokenSequence, Trajectory
from modules.learned_sequences import distinct_sequences, learned_tokens
from tests.modules.helpers import noise, small_policy


def cut_off(reason: StopReason) -> Trajectory:
    """A prompt of 2 tokens, a reply of 3, an observation of 2, a reply of 2."""
    tokens = TokenSequence()
    for n, is_trained in ((2, False), (3, True), (2, False), (2, True)):
        tokens.append(range(n), is_trained=is_trained)
    return Trajectory(Sample("0", "Read.", (noise(84, 56, 0),), "K7"), tokens=tokens, stop_reason=reason)


@pytest.mark.parametrize(
    ("reason", "of_whole_replies", "of_nothing"),
    [
        (StopReason.MAX_TOKENS, [2, 3, 4], []),
        (StopReason.CONTEXT_FULL, [2, 3, 4, 7, 8], []),  # both replies are complete; the next observation did not fit
        (StopReason.ANSWERED, [2, 3, 4, 7, 8], [2, 3, 4, 7, 8]),
        (StopReason.MAX_TURNS, [2, 3, 4, 7, 8], [2, 3, 4, 7, 8]),
    ],
)
def test_learned_tokens_by_hand(reason: StopReason, of_whole_replies: list[int], of_nothing: list[int]) -> None:
    trajectory = cut_off(reason)
    expected: dict[Any, list[int]] = {
        "all": [2, 3, 4, 7, 8],
        "whole_replies": of_whole_replies,
        "nothing": of_nothing,
    }
    for truncated, places in expected.items():
        mask = learned_tokens(trajectory, truncated).is_trained
        assert [place for place, is_learned in enumerate(mask) if is_learned] == places, truncated
    assert sum(trajectory.tokens.is_trained) == 5, "the trajectory stays as it was"


def test_distinct_means_tokens_images_and_advantage() -> None:
    policy = small_policy()

    def trajectory(seed: int, text: str) -> Trajectory:
        sample = Sample("s", text, (noise(84, 56, seed),), "x")
        return Trajectory(sample, tokens=policy.conversation.start(sample))

    found = [trajectory(0, "a"), trajectory(0, "a"), trajectory(1, "a"), trajectory(0, "b"), trajectory(0, "a")]
    sequences = distinct_sequences([t.tokens for t in found], [1.0, 1.0, 1.0, 1.0, -1.0])
    assert [(sequence.advantage, sequence.weight) for sequence in sequences] == [(1, 2), (1, 1), (1, 1), (-1, 1)]
    assert sum(sequence.weight for sequence in sequences) == len(found)
