"""Alarms for runs that have gone wrong in the ways that users report most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from cv_lightning.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class _Alarm:
    metric: str
    is_bad: Callable[[float], bool]
    message: str


class Health(Callback):
    """Watches the metrics of each training step; an alarm goes off after `patience` bad steps in a row.

    Each alarm warns once, or ends the run: with "stop" the checkpoint on disk is of before, and `fit` ends with an
    error. Metrics that are not logged raise no alarm.

    Args:
        min_tool_rate: Smallest healthy `rollout/tool_rate`; 0 never alarms.
        max_zero_variance: Largest healthy `rl/zero_variance_groups`; 1 never alarms.
        max_logprob_gap: Largest healthy `rl/logprob_gap`, in nats: 1e-3 is enough in float32, bfloat16 needs more; not
            a number is never healthy.
        patience: Bad steps in a row.
        action: "warn" or "stop".

    Raises:
        ConfigError: A limit outside its range, or another action.
        TrainingError: An alarm with action "stop".
    """

    def __init__(
        self,
        min_tool_rate: float = 0.02,
        max_zero_variance: float = 0.95,
        max_logprob_gap: float = 0.1,
        patience: int = 10,
        action: Literal["warn", "stop"] = "warn",
    ) -> None:
        for name, value in (("min_tool_rate", min_tool_rate), ("max_zero_variance", max_zero_variance)):
            if not 0 <= value <= 1:
                raise ConfigError(f"Health: {name}: expected a share between 0 and 1 but got {value}")
        if not max_logprob_gap > 0:
            raise ConfigError(f"Health: max_logprob_gap: expected more than 0 but got {max_logprob_gap}")
        if patience < 1:
            raise ConfigError(f"Health: patience: expected at least 1 but got {patience}")
        if action not in get_args(Literal["warn", "stop"]):
            raise ConfigError(f"Health: action: expected warn or stop but got {action!r}")
        self.patience = patience
        self.action = action
        self._alarms = (
            _Alarm(
                "rollout/tool_rate",
                lambda rate: rate < min_tool_rate,
                f"tools are hardly called any more (less than {min_tool_rate:g} of the rollouts). Lower the learning "
                "rate, raise policy_gradient.kl_coefficient or reward.mandatory, or start from more SFT",
            ),
            _Alarm(
                "rl/zero_variance_groups",
                lambda share: share > max_zero_variance,
                f"more than {max_zero_variance:g} of the groups have equal rewards and teach nothing. Take harder or "
                "easier prompts, a larger group_size, or set max_resamples",
            ),
            _Alarm(
                "rl/logprob_gap",
                lambda gap: not gap <= max_logprob_gap,
                f"sampling and training disagree about the same tokens by more than {max_logprob_gap:g} nats. Check "
                "that both use one dtype, one temperature and the same images",
            ),
        )
        self._bad_steps = dict.fromkeys((alarm.metric for alarm in self._alarms), 0)
        self._raised: set[str] = set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at what the step logged."""
        for alarm in self._alarms:
            value = trainer.callback_metrics.get(alarm.metric)
            if value is not None:
                self._look(alarm, float(value), trainer.global_step)

    def _look(self, alarm: _Alarm, value: float, step: int) -> None:
        self._bad_steps[alarm.metric] = self._bad_steps[alarm.metric] + 1 if alarm.is_bad(value) else 0
        if self._bad_steps[alarm.metric] < self.patience or alarm.metric in self._raised:
            return
        self._raised.add(alarm.metric)
        shown = "not a number" if math.isnan(value) else f"{value:.4g}"
        message = f"Step {step}: {alarm.metric} is {shown}; for {self.patience} steps {alarm.message}."
        if self.action == "stop":
            raise TrainingError(f"{message} Stopped, because Health has action: stop.")
        rank_zero_warn(message)
