"""The sequences that a step learns from: masks truncated replies and merges equal trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cv_lightning.types import StopReason, TokenSequence, Trajectory

#: Which tokens of a truncated rollout are learned: see `modules.grpo.GRPOModule`.
Truncated = Literal["all", "whole_replies", "nothing"]


@dataclass(frozen=True)
class WeightedSequence:
    """A distinct trajectory of a step.

    Attributes:
        tokens: Its tokens with the log-probabilities under which they were sampled.
        advantage: Its advantage.
        weight: How many times it was sampled.
    """

    tokens: TokenSequence
    advantage: float
    weight: int


def learned_tokens(trajectory: Trajectory, truncated: Truncated) -> TokenSequence:
    """The tokens of a trajectory, masked by `truncated`: see `GRPOModule`."""
    tokens, reason = trajectory.tokens, trajectory.stop_reason
    if truncated == "all" or reason not in (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL):
        return tokens
    n_whole = 0
    if truncated == "whole_replies":
        # Nothing follows the reply that was cut off; if an observation did not fit, every reply is whole.
        n_whole = len(tokens)
        while reason is StopReason.MAX_TOKENS and n_whole and tokens.is_trained[n_whole - 1]:
            n_whole -= 1
    return replace(tokens, is_trained=tokens.is_trained[:n_whole] + [False] * (len(tokens) - n_whole))


def distinct_sequences(sequences: Sequence[TokenSequence], advantages: Sequence[float]) -> list[WeightedSequence]:
    """Merge sequences that have the same tokens, the same mask, the same images and the same advantage."""
    weights: dict[tuple[object, ...], int] = {}
    tokens_of: dict[tuple[object, ...], tuple[TokenSequence, float]] = {}
    for tokens, advantage in zip(sequences, advantages, strict=True):
        key = (tuple(tokens.ids), tuple(tokens.is_trained), tuple(viewed.key for viewed in tokens.images), advantage)
        weights[key] = weights.get(key, 0) + 1
        tokens_of.setdefault(key, (tokens, advantage))
    return [WeightedSequence(*tokens_of[key], weight) for key, weight in weights.items()]
