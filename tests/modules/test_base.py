"""What both stages share."""

from __future__ import annotations

from typing import Any

import pytest
from lightning import Callback

from cv_lightning.errors import ConfigError
from modules.optimizer import OptimizerConfig
from modules.sft import SFTModule
from tests.modules.helpers import episodes, small_policy, train


def test_micro_batch_tokens_cannot_be_negative() -> None:
    with pytest.raises(ConfigError, match="micro_batch_tokens"):
        SFTModule(small_policy(), micro_batch_tokens=-1)


def test_monitors_read_a_step_at_its_end_and_nothing_is_logged_by_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Monitor(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["train/loss"]))

    module = SFTModule(small_policy(), optimizer=OptimizerConfig(lr=1e-2))
    monkeypatch.setattr(module, "log", None)  # a step must not need it
    train(module, [episodes(2)] * 2, callbacks=[Monitor()])
    assert seen[1] < seen[0]
