"""Chooses the trajectories of a step that are worth reading."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from callbacks.tool_families import verified_tools
from cv_lightning.evidence import call_outcomes, emergent_tools
from cv_lightning.types import Group, RewardBreakdown, Trajectory

#: Kinds in the order of picking; a trajectory has the first kind that picks it.
KINDS = ("best", "worst", "recovered", "emergent", "sampled", "mate")


@dataclass(frozen=True)
class Picked:
    """A trajectory worth reading.

    Attributes:
        kind: One of `KINDS`.
        trajectory: The trajectory.
        breakdown: Its reward.
        group: Index of its group in the step.
        rollout: Its index within the group.
    """

    kind: str
    trajectory: Trajectory
    breakdown: RewardBreakdown
    group: int = 0
    rollout: int = 0


def has_recovered(trajectory: Trajectory) -> bool:
    """Whether a call failed and a later call ran."""
    outcomes = call_outcomes(trajectory)
    return False in outcomes and True in outcomes[outcomes.index(False) :]


def pick(
    groups: Sequence[Group],
    breakdowns: Sequence[Sequence[RewardBreakdown]],
    n: int,
    seed: int = 0,
    n_whole_groups: int = 0,
) -> list[Picked]:
    """Up to `n` trajectories of each kind.

    "best" and "worst" are chosen by reward. "recovered" ran a call after a failed call. "emergent" used a tool that no
    task requires. "sampled" are random others, including unjudged ones. "mate" completes the groups of the first best,
    the first worst, the second best, ... until `n_whole_groups` groups have all their rollouts.

    No trajectory is picked twice; if there are few, earlier kinds are filled first. Among equal rewards, the first
    rollouts of all groups come before the second rollouts, because rollouts of one question look alike.
    """
    places = [(p, g) for p, group in enumerate(groups) for g in range(len(group.trajectories))]
    trajectories = {(p, g): groups[p].trajectories[g] for p, g in places}
    paid = {(p, g): breakdowns[p][g] for p, g in places}
    kinds: dict[tuple[int, int], str] = {}

    def take(kind: str, candidates: Sequence[tuple[int, int]]) -> None:
        free = [place for place in candidates if place not in kinds]
        kinds.update(dict.fromkeys(free[:n], kind))

    judged = [place for place in places if paid[place].is_right is not None]
    by_reward = sorted(judged, key=lambda place: (-paid[place].total, place[1], place[0]))
    take("best", by_reward)
    take("worst", sorted(judged, key=lambda place: (paid[place].total, place[1], place[0])))
    take("recovered", [place for place in by_reward if has_recovered(trajectories[place])])
    take("emergent", [place for place in by_reward if emergent_tools(verified_tools(trajectories[place]))])
    take("sampled", random.Random(seed).sample(places, len(places)))  # noqa: S311 (which ones to show is no secret)
    kinds |= _mates(kinds, places, n_whole_groups)
    return [Picked(kind, trajectories[place], paid[place], *place) for kind in KINDS for place in _of(kinds, kind)]


def _mates(kinds: dict[tuple[int, int], str], places: Sequence[tuple[int, int]], n: int) -> dict[tuple[int, int], str]:
    best, worst = ([p for p, _ in _of(kinds, kind)] for kind in ("best", "worst"))
    in_turn = [p for pair in zip(best, worst, strict=False) for p in pair] + best + worst
    whole = set(list(dict.fromkeys(in_turn))[:n])
    return {place: "mate" for place in places if place[0] in whole and place not in kinds}


def _of(kinds: dict[tuple[int, int], str], kind: str) -> list[tuple[int, int]]:
    return [place for place, other in kinds.items() if other == kind]
