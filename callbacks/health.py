"""Alarms for the failures of runs that users report most often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.rollouts import RolloutCallback
from cv_lightning.cli.checkpoints import save_whole
from cv_lightning.errors import ConfigError, TrainingError
from cv_lightning.types import Rollouts, StopReason, Trajectory

#: Largest healthy difference of two log-probabilities in float32, in nats.
_EXACT_GAP = 0.1

#: Weight of the newest step in the running tool rate.
_NEWEST = 0.2


@dataclass(frozen=True)
class _Alarm:
    """A limit of a metric: `argument` is "min_..." or "max_..."; NaN is never healthy."""

    argument: str
    metric: str
    is_share: bool
    message: str

    def is_bad(self, value: float, limit: float) -> bool:
        return not (value >= limit if self.argument.startswith("min") else value <= limit)


_ALARMS = (
    _Alarm(
        "min_tool_rate",
        "rollout/tool_rate",
        True,
        "tools are rarely called now (in less than {limit:g} of the rollouts). Lower the learning rate, raise "
        "policy_gradient.kl_coefficient or reward.mandatory, or start from more SFT",
    ),
    _Alarm(
        "min_tool_rate_of_best",
        "health/tool_rate_of_best",
        True,
        "tools are called far less than at the peak (below {limit:g} of that rate). Lower the learning rate, raise "
        "policy_gradient.kl_coefficient or reward.mandatory",
    ),
    _Alarm(
        "max_zero_variance",
        "rl/zero_variance_groups",
        True,
        "more than {limit:g} of the groups have equal rewards and teach nothing. Take harder or easier prompts, a "
        "larger group_size, or set max_resamples",
    ),
    _Alarm(
        "max_logprob_gap",
        "rl/logprob_gap",
        False,
        "sampling and training disagree about the same tokens by more than {limit:g} nats. Check that both use one "
        "dtype, one temperature and the same images",
    ),
    _Alarm(
        "max_logprob_gap_mean",
        "rl/logprob_gap_mean",
        False,
        "sampling and training disagree by more than {limit:g} nats per token, more than rounding explains. Check that "
        "both use one temperature, the same images and the newest weights, or set sampler_correction",
    ),
    _Alarm(
        "min_entropy",
        "rl/entropy",
        False,
        "the policy no longer explores (entropy below {limit:g} nats per token). Raise policy_gradient.clip_high "
        "or entropy_coefficient, or lower the learning rate",
    ),
    _Alarm(
        "max_entropy",
        "rl/entropy",
        False,
        "the policy is losing its language (entropy above {limit:g} nats per token). Lower the learning rate or raise "
        "policy_gradient.kl_coefficient",
    ),
    _Alarm(
        "max_kl",
        "rl/kl",
        False,
        "the policy has moved far from its reference (more than {limit:g} nats per token). Lower the learning rate or "
        "raise policy_gradient.kl_coefficient",
    ),
    _Alarm(
        "max_clip_fraction",
        "rl/clip_fraction",
        True,
        "more than {limit:g} of the tokens are clipped and learn nothing. Lower the learning rate, minibatches or "
        "epochs",
    ),
    _Alarm(
        "max_grad_norm",
        "train/grad_norm",
        False,
        "the gradient is larger than {limit:g} before clipping. Lower the learning rate and look for odd rewards",
    ),
    _Alarm(
        "max_truncation",
        "health/truncation",
        True,
        "more than {limit:g} of the rollouts are cut off. Raise rollout.max_new_tokens or policy.max_context_tokens, "
        "or see whether the policy still ends its turns",
    ),
    _Alarm(
        "min_answered",
        "health/stop/answered",
        True,
        "fewer than {limit:g} of the rollouts end in an answer. Look at health/stop/*, raise rollout.max_turns, or "
        "start from more SFT",
    ),
    _Alarm(
        "max_length_growth",
        "health/length_growth",
        False,
        "rollouts have become more than {limit:g} times as long as at the start. Raise reward.usage or the KL, and "
        "read what the policy writes",
    ),
)


class Health(RolloutCallback):
    """Logs `health/...` and watches the metrics of each training step.

    An alarm goes off after `patience` bad steps in a row. With "warn" it warns once and tags the run in MLflow. With
    "stop" `fit` writes `<default_root_dir>/checkpoints/alarm.ckpt` and ends with an error; `last.ckpt` stays as it was.
    A resumed run keeps counts and baselines. A metric that is not logged or has the limit None raises no alarm.
    NaN is never healthy.

    Args:
        min_tool_rate: Smallest healthy `rollout/tool_rate`.
        min_tool_rate_of_best: Smallest healthy ratio of the running tool rate to its best value so far.
        max_zero_variance: Largest healthy `rl/zero_variance_groups`.
        max_logprob_gap: Largest healthy `rl/logprob_gap`, in nats. "by_precision" is 0.1 if the policy samples by
            itself in float32, and no limit otherwise: the largest of many rounding errors grows with their number.
        max_logprob_gap_mean: Largest healthy `rl/logprob_gap_mean`, in nats; the mean does not grow with their number.
        min_entropy: Smallest healthy `rl/entropy`, in nats per token.
        max_entropy: Largest healthy `rl/entropy`, in nats per token.
        max_kl: Largest healthy `rl/kl`, in nats per token.
        max_clip_fraction: Largest healthy `rl/clip_fraction`.
        max_grad_norm: Largest healthy `train/grad_norm`.
        max_truncation: Largest healthy share of rollouts that were cut off.
        min_answered: Smallest healthy share of rollouts that end in an answer.
        max_length_growth: Largest healthy `health/length_growth`.
        patience: Bad steps in a row.
        action: "warn" or "stop".

    Raises:
        ConfigError: A limit outside its range, or another action.
        TrainingError: An alarm with action "stop".
    """

    def __init__(
        self,
        min_tool_rate: float | None = 0.02,
        min_tool_rate_of_best: float | None = 0.25,
        max_zero_variance: float | None = 0.95,
        max_logprob_gap: float | Literal["by_precision"] | None = "by_precision",
        max_logprob_gap_mean: float | None = 0.05,
        min_entropy: float | None = 1e-4,
        max_entropy: float | None = 5.0,
        max_kl: float | None = 1.0,
        max_clip_fraction: float | None = 0.5,
        max_grad_norm: float | None = 100.0,
        max_truncation: float | None = 0.5,
        min_answered: float | None = 0.05,
        max_length_growth: float | None = 3.0,
        patience: int = 10,
        action: Literal["warn", "stop"] = "warn",
    ) -> None:
        given = locals()
        self._is_gap_by_precision = max_logprob_gap == "by_precision"
        given["max_logprob_gap"] = _EXACT_GAP if self._is_gap_by_precision else max_logprob_gap
        self.limits: dict[str, float | None] = {alarm.argument: given[alarm.argument] for alarm in _ALARMS}
        for alarm in _ALARMS:
            _check(alarm, self.limits[alarm.argument])
        if patience < 1:
            raise ConfigError(f"Health: patience: expected at least 1, got {patience}")
        if action not in get_args(Literal["warn", "stop"]):
            raise ConfigError(f"Health: action: expected warn or stop, got {action!r}")
        self.patience = patience
        self.action = action
        self._bad_steps = {alarm.argument: 0 for alarm in _ALARMS}
        self._raised: set[str] = set()
        self._first_lengths: list[float] = []
        self._tool_rate = self._best_tool_rate = 0.0
        self._n_rollouts = 0
        self._stopped_by = ""
        self._latest: dict[str, float] = {}

    # ---- measuring ---------------------------------------------------------------------------------------------------

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Measure how the rollouts ended, how long they are, and how length and tool rate have changed."""
        trajectories = rollouts.trajectories
        metrics = stop_metrics(trajectories)
        if len(self._first_lengths) < self.patience:
            self._first_lengths.append(metrics["health/length"])
        baseline = sum(self._first_lengths) / len(self._first_lengths)
        if baseline > 0:
            metrics["health/length_growth"] = metrics["health/length"] / baseline
        rate = sum(trajectory.n_calls > 0 for trajectory in trajectories) / max(1, len(trajectories))
        self._tool_rate += (rate - self._tool_rate) * (_NEWEST if self._n_rollouts else 1.0)
        self._n_rollouts += 1
        self._best_tool_rate = max(self._best_tool_rate, self._tool_rate)
        if self._best_tool_rate > 0:
            metrics["health/tool_rate_of_best"] = self._tool_rate / self._best_tool_rate
        metrics["health/alarms"] = float(len(self._raised))
        return metrics

    # ---- watching ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the limit of the largest gap if sampling and training round differently."""
        dtype = getattr(getattr(pl_module, "policy", None), "dtype", torch.float32)
        is_exact = dtype == torch.float32 and getattr(pl_module, "sampler_correction", None) is None
        if self._is_gap_by_precision:
            self.limits["max_logprob_gap"] = _EXACT_GAP if is_exact else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the metrics of the step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._latest |= outputs.get("metrics", {})  # a KL measured every n steps counts until the next measurement
        messages = self._look(self._latest, trainer.global_step)
        if self.action == "stop":
            if trainer.strategy.reduce_boolean_decision(bool(messages), all=False):
                self._prepare_stop(trainer, messages)
        else:
            for message in messages:
                rank_zero_warn(message)
        if messages:
            for logger in trainer.loggers:
                if isinstance(logger, BackgroundMLflowLogger):
                    logger.set_tags({"alarm": " ".join(messages)})

    def _look(self, metrics: Mapping[str, float], step: int) -> list[str]:
        messages = []
        for alarm in _ALARMS:
            limit, value = self.limits[alarm.argument], metrics.get(alarm.metric)
            if limit is None or value is None:
                continue
            number = float(value)
            name = alarm.argument
            self._bad_steps[name] = self._bad_steps[name] + 1 if alarm.is_bad(number, limit) else 0
            if self._bad_steps[name] >= self.patience and name not in self._raised:
                self._raised.add(name)
                shown = "not a number" if math.isnan(number) else f"{number:.4g}"
                said = alarm.message.format(limit=limit)
                messages.append(f"Step {step}: {alarm.metric} is {shown}, bad for {self.patience} steps: {said}.")
        return messages

    def _prepare_stop(self, trainer: Trainer, messages: list[str]) -> None:
        """Write the checkpoint; a run that resumes from it starts with full patience."""
        self._bad_steps = dict.fromkeys(self._bad_steps, 0)
        self._raised.clear()
        path = Path(trainer.default_root_dir) / "checkpoints" / "alarm.ckpt"
        save_whole(trainer, path)
        said = " ".join(messages) or "An alarm went off in another process."
        self._stopped_by = f"{said} Stopped, because Health has action: stop; the current policy is saved in {path}."

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before the next step: the metrics of the last step are logged after `on_train_batch_end`."""
        self._stop_where_asked()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the last step."""
        self._stop_where_asked()

    def _stop_where_asked(self) -> None:
        if self._stopped_by:
            message, self._stopped_by = self._stopped_by, ""
            raise TrainingError(message)

    # ---- resuming ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Counts and baselines."""
        return {
            "bad_steps": dict(self._bad_steps),
            "raised": sorted(self._raised),
            "first_lengths": list(self._first_lengths),
            "tool_rates": [self._tool_rate, self._best_tool_rate, self._n_rollouts],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore counts and baselines."""
        self._bad_steps |= {name: count for name, count in state_dict["bad_steps"].items() if name in self._bad_steps}
        self._raised = set(state_dict["raised"])
        self._first_lengths = list(state_dict["first_lengths"])
        self._tool_rate, self._best_tool_rate, self._n_rollouts = state_dict["tool_rates"]


def stop_metrics(trajectories: list[Trajectory]) -> dict[str, float]:
    """Why rollouts ended, the share that was cut off, and their length in tokens that the policy wrote."""
    n = max(1, len(trajectories))
    reasons = Counter(trajectory.stop_reason for trajectory in trajectories)
    cut_off = reasons[StopReason.MAX_TOKENS] + reasons[StopReason.CONTEXT_FULL]
    return {
        **{f"health/stop/{reason.value}": reasons[reason] / n for reason in StopReason},
        "health/truncation": cut_off / n,
        "health/length": sum(sum(trajectory.tokens.is_trained) for trajectory in trajectories) / n,
    }


def _check(alarm: _Alarm, limit: float | None) -> None:
    name = alarm.argument
    if limit is None:
        return
    if alarm.is_share and not 0 <= limit <= 1:
        raise ConfigError(f"Health: {name}: expected a share between 0 and 1, or null, got {limit}")
    if not alarm.is_share and not limit > 0:
        raise ConfigError(f"Health: {name}: expected more than 0, or null, got {limit}")
