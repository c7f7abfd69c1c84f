"""The groups that a step keeps, with given rewards."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from cv_lightning.rewards import TERMS
from cv_lightning.types import Group, RewardBreakdown, Rollouts, Sample
from modules.dynamic_sampling import oversample, resample
from modules.rollouts import reward_totals


class Rolls:
    """Rewards of each sample, one pair per rollout; every call reports one second of waiting for tools."""

    def __init__(self, pairs: dict[str, list[tuple[float, float]]]) -> None:
        self.pairs = {name: iter(values) for name, values in pairs.items()}
        self.calls: list[tuple[list[str], int]] = []

    def __call__(self, samples: Sequence[Sample], attempt: int) -> Rollouts:
        self.calls.append(([sample.id for sample in samples], attempt))
        rewards = [next(self.pairs[sample.id]) for sample in samples]
        zeros = dict.fromkeys(TERMS, 0.0)
        breakdowns = [[RewardBreakdown({**zeros, "accuracy": each}, each > 0) for each in pair] for pair in rewards]
        return Rollouts([Group(sample, []) for sample in samples], breakdowns, 1.0)


def samples(names: str) -> list[Sample]:
    return [Sample(name, "Read.", (Image.new("RGB", (1, 1)),), "x") for name in names]


def kept(rollouts: Rollouts) -> dict[str, list[float]]:
    rewards = reward_totals(rollouts).tolist()
    return {group.sample.id: of_group for group, of_group in zip(rollouts.groups, rewards, strict=True)}


def test_flat_groups_alone_are_rolled_out_again() -> None:
    rolls = Rolls({"a": [(0, 1)], "b": [(1, 1), (0, 0), (1, 0)], "c": [(0, 0)] * 4})
    rollouts = resample(samples("abc"), rolls, 3)
    assert rolls.calls == [(["a", "b", "c"], 0), (["b", "c"], 1), (["b", "c"], 2), (["c"], 3)]
    assert kept(rollouts) == {"a": [0, 1], "b": [1, 0], "c": [0, 0]}
    assert rollouts.tools_s == 4
    assert rollouts.n_prompts is None


def test_nothing_is_rolled_out_again_if_all_have_a_spread_or_none_may_be() -> None:
    for pairs, most in (([(0.0, 1.0)], 3), ([(1.0, 1.0)], 0)):
        rolls = Rolls({"a": pairs})
        resample(samples("a"), rolls, most)
        assert rolls.calls == [(["a"], 0)]


def test_prompts_are_taken_until_enough_have_a_spread_and_the_largest_stay() -> None:
    rolls = Rolls({"a": [(0, 0)], "b": [(0, 1)], "c": [(0, 3)], "d": [(0, 2)], "e": [(0, 9)]})
    rollouts = oversample(samples("abcde"), rolls, 2)
    assert rolls.calls == [(["a", "b"], 0), (["c", "d"], 1)]
    assert kept(rollouts) == {"c": [0, 3], "d": [0, 2]}
    assert (rollouts.n_prompts, rollouts.tools_s) == (4, 2)


def test_flat_groups_fill_up_if_the_batch_ends() -> None:
    rolls = Rolls({"a": [(0, 0)], "b": [(1, 1)], "c": [(0, 1)]})
    assert kept(oversample(samples("abc"), rolls, 2)) == {"a": [0, 0], "c": [0, 1]}
