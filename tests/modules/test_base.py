"""Behavior that both stages share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback

from cv_lightning.errors import ConfigError
from cv_lightning.types import Group, Sample
from modules.base import PolicyModule
from modules.optimizer import OptimizerConfig
from modules.sft import SFTModule
from tests.modules.helpers import episodes, replying, small_policy, train


def test_micro_batch_tokens_cannot_be_negative() -> None:
    with pytest.raises(ConfigError, match="micro_batch_tokens"):
        SFTModule(small_policy(), micro_batch_tokens=-1)


def test_the_old_setting_names_its_successor() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size: expected micro_batch_tokens instead, got 16"):
        SFTModule(small_policy(), micro_batch_size=16)


def test_monitors_read_a_step_at_its_end_and_nothing_is_logged_by_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Monitor(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["train/loss"]))

    module = SFTModule(small_policy(), optimizer=OptimizerConfig(lr=1e-2))
    monkeypatch.setattr(module, "log", None)  # a step must work without it
    train(module, [episodes(2)] * 2, callbacks=[Monitor()])
    assert seen[1] < seen[0]


def test_rollouts_are_judged_as_their_groups_end(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample(str(number), str(number), (), "bus") for number in range(3)]
    groups = [Group(sample, [replying(sample, "a coach")]) for sample in samples]

    def roll_out(*options: Any) -> list[Group]:
        for number in (2, 0, 1):
            options[-1](number, groups[number])
        return groups

    module = SFTModule(small_policy(), judge=lambda question, prediction, truth: question == "1")  # type: ignore[arg-type]
    monkeypatch.setattr(module._roller, "roll_out", roll_out)
    rollouts = module.roll_out(samples, 1, 0.0, seed=0)
    assert rollouts.groups == groups
    assert [[one.is_right for one in of_group] for of_group in rollouts.breakdowns] == [[False], [True], [False]]


def test_values_of_all_ranks_are_gathered_whatever_they_are() -> None:
    of_ranks = [torch.tensor([-1.0, 2.0]), torch.tensor([0.0]), torch.tensor([])]

    def all_gather(own: torch.Tensor) -> torch.Tensor:
        if own.ndim == 0:
            return torch.tensor([len(values) for values in of_ranks])
        return torch.stack([torch.nn.functional.pad(values, (0, 2 - len(values))) for values in of_ranks])

    rank: Any = SimpleNamespace(
        trainer=SimpleNamespace(world_size=3), global_max=lambda number: max(number, 2), all_gather=all_gather
    )
    for own in of_ranks:
        assert PolicyModule.of_all_ranks(rank, own).tolist() == [-1.0, 2.0, 0.0]
