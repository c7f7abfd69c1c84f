"""Splits a trajectory's reward over its turns."""

from __future__ import annotations

from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, RewardBreakdown, Trajectory

#: Credits smaller than this are rounding.
_TOLERANCE = 1e-9


def turn_credits(trajectory: Trajectory, breakdown: RewardBreakdown, config: RewardConfig) -> list[dict[str, float]]:
    """The reward terms by turn: their values if the trajectory ended after the turn, minus those before the turn.

    So a turn that makes the image upright earns the mandatory part, and a turn that rotates it away again loses it. A
    needless call pays its own penalty, and terms that only an answer can earn belong to the last turn. Summed over the
    turns, each term equals that of the breakdown.

    Args:
        trajectory: The trajectory.
        breakdown: Its reward.
        config: The formula.

    Returns:
        One dictionary per turn; terms without credit are left out.
    """
    before = dict.fromkeys(breakdown.terms, 0.0)
    credits_by_turn = []
    for n_turns in range(1, len(trajectory.turns) + 1):
        is_last = n_turns == len(trajectory.turns)
        after = breakdown.terms if is_last else _terms_of_start(trajectory, n_turns, config)
        changes = {name: after.get(name, 0.0) - before[name] for name in before}
        credits_by_turn.append({name: value for name, value in changes.items() if abs(value) > _TOLERANCE})
        before = {name: after.get(name, 0.0) for name in before}
    return credits_by_turn


def _terms_of_start(trajectory: Trajectory, n_turns: int, config: RewardConfig) -> dict[str, float]:
    """Reward terms of the first turns alone; no judge is asked, because only the last turn answers."""
    images = [viewed for viewed in trajectory.images if viewed.turn < n_turns]
    start = Trajectory(trajectory.sample, trajectory.turns[:n_turns], images)
    return score(Group(trajectory.sample, [start]), config)[0].terms
