"""What both stages share."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from lightning import Callback

from cv_lightning.conversation import parse_reply
from cv_lightning.errors import ConfigError
from cv_lightning.types import Group, Sample, Trajectory, Turn
from modules.optimizer import OptimizerConfig
from modules.sft import SFTModule
from tests.modules.helpers import episodes, small_policy, train


def test_micro_batch_tokens_cannot_be_negative() -> None:
    with pytest.raises(ConfigError, match="micro_batch_tokens"):
        SFTModule(small_policy(), micro_batch_tokens=-1)


def test_the_old_setting_names_its_successor() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size: expected micro_batch_tokens in its place but got 16"):
        SFTModule(small_policy(), micro_batch_size=16)


def test_monitors_read_a_step_at_its_end_and_nothing_is_logged_by_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Monitor(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["train/loss"]))

    module = SFTModule(small_policy(), optimizer=OptimizerConfig(lr=1e-2))
    monkeypatch.setattr(module, "log", None)  # a step must not need it
    train(module, [episodes(2)] * 2, callbacks=[Monitor()])
    assert seen[1] < seen[0]


def test_a_judge_is_asked_about_many_groups_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=60)  # a judge that is asked about one group after another never passes

    def judge(question: str, prediction: str, truth: str) -> bool:
        together.wait()
        return question == "1"

    samples = [Sample(str(number), str(number), (), "bus") for number in range(3)]
    text = "<answer>a coach</answer>"
    groups = [Group(sample, [Trajectory(sample, turns=[Turn(text, parse_reply(text))])]) for sample in samples]
    module = SFTModule(small_policy(), judge=judge)  # type: ignore[arg-type]
    monkeypatch.setattr(module._roller, "roll_out", lambda *_: groups)
    rollouts = module.roll_out(samples, 1, 0.0, seed=0)
    assert rollouts.groups == groups
    assert [[one.is_right for one in of_group] for of_group in rollouts.breakdowns] == [[False], [True], [False]]
