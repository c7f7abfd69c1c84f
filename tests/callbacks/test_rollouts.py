"""A callback gets the rollouts of a step, and its numbers are logged with the metrics of the step."""

from __future__ import annotations

from typing import Any

from callbacks.rollouts import RolloutCallback
from cv_lightning.types import Rollouts


class Counting(RolloutCallback):
    def on_rollout(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> dict[str, float]:
        return {"tools/groups": float(len(rollouts.groups))}


def end_of_step(callback: RolloutCallback, outputs: dict[str, Any]) -> dict[str, Any]:
    nobody: Any = None
    callback.on_train_batch_end(nobody, nobody, outputs, None, 0)
    return outputs


def test_numbers_are_added_to_those_of_the_step() -> None:
    outputs = end_of_step(Counting(), {"rollouts": Rollouts([], []), "metrics": {"rl/loss": 1.0}})
    assert outputs["metrics"] == {"rl/loss": 1.0, "tools/groups": 0.0}


def test_a_step_without_rollouts_is_left_alone() -> None:
    assert end_of_step(Counting(), {"metrics": {"train/loss": 1.0}}) == {"metrics": {"train/loss": 1.0}}
