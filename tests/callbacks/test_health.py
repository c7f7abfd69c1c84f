"""Alarms on training metrics and on the rollouts themselves."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.health import Health
from cv_lightning.errors import ConfigError, TrainingError
from cv_lightning.types import Group, StopReason
from sandbox import Observation
from tests.callbacks.steps import SAMPLE, Learner, fit, trajectory

COLLAPSE = [{"rollout/tool_rate": rate} for rate in (0.0, 0.5, 0.0, 0.0, 0.0, 0.0)]


def test_an_alarm_goes_off_once_after_bad_steps_in_a_row(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, Learner([], COLLAPSE), 6, Health(patience=2))
    messages = [str(w.message) for w in caught if "rollout/tool_rate" in str(w.message)]
    assert len(messages) == 1
    assert messages[0].startswith("Step 4: rollout/tool_rate is 0,")
    assert "kl_coefficient" in messages[0]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("rollout/tool_rate", 0.0),
        ("rl/zero_variance_groups", 1.0),
        ("rl/logprob_gap", 0.5),
        ("rl/logprob_gap", float("nan")),
        ("rl/logprob_gap_mean", 0.1),
        ("rl/entropy", 1e-6),
        ("rl/entropy", 9.0),
        ("rl/kl", 2.0),
        ("rl/clip_fraction", 0.8),
        ("train/grad_norm", float("inf")),
    ],
)
def test_stop_ends_the_run_with_an_error_that_names_the_metric(tmp_path: Path, metric: str, value: float) -> None:
    module = Learner([], [{metric: value}] * 3)
    with pytest.raises(TrainingError, match=f"{metric}.*Stopped.*alarm.ckpt"):
        fit(tmp_path, module, 3, Health(patience=2, action="stop"))
    checkpoint = torch.load(tmp_path / "checkpoints" / "alarm.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert "layer.weight" in checkpoint["state_dict"]


@pytest.mark.parametrize(
    ("dtype", "correction", "limit", "is_bad"),
    [
        (torch.float32, None, "by_precision", True),
        (torch.bfloat16, None, "by_precision", False),  # rounding
        (torch.float32, object(), "by_precision", False),  # another sampler
        (torch.bfloat16, None, 0.1, True),  # asked for
    ],
)
def test_the_largest_gap_is_judged_by_precision(
    tmp_path: Path, dtype: torch.dtype, correction: object, limit: Any, is_bad: bool
) -> None:
    module: Any = Learner([], [{"rl/logprob_gap": 0.3, "rl/logprob_gap_mean": 0.006}] * 2)
    module.policy, module.sampler_correction = SimpleNamespace(dtype=dtype), correction
    health = Health(patience=2, action="stop", max_logprob_gap=limit)
    if is_bad:
        with pytest.raises(TrainingError, match=r"rl/logprob_gap is 0\.3"):
            fit(tmp_path, module, 2, health)
    else:
        assert len(fit(tmp_path, module, 2, health)) == 2


def rollouts_that(reason: StopReason | None, n_tokens: int, n_calls: int = 0) -> Group:
    trajectories = [trajectory(*[Observation("ok")] * n_calls) for _ in range(2)]
    for one in trajectories:
        one.stop_reason = reason
        one.tokens.append(list(range(n_tokens)), is_trained=True)
    return Group(SAMPLE, trajectories)


@pytest.mark.parametrize(
    ("groups", "metric"),
    [
        ([rollouts_that(StopReason.MAX_TOKENS, 5)] * 3, "health/truncation"),
        ([rollouts_that(StopReason.CONTEXT_FULL, 5)] * 3, "health/truncation"),
        ([rollouts_that(StopReason.NO_ACTION, 5)] * 3, "health/stop/answered"),
        (
            [*[rollouts_that(StopReason.ANSWERED, 5)] * 2, *[rollouts_that(StopReason.ANSWERED, 50)] * 3],
            "length_growth",
        ),
        (
            [*[rollouts_that(StopReason.ANSWERED, 5, 1)] * 2, *[rollouts_that(StopReason.ANSWERED, 5)] * 20],
            "tool_rate_of_best",
        ),
    ],
)
def test_rollouts_raise_alarms_of_their_own(tmp_path: Path, groups: list[Group], metric: str) -> None:
    module = Learner([Group(group.sample, list(group.trajectories)) for group in groups])
    with pytest.raises(TrainingError, match=metric):
        fit(tmp_path, module, len(groups), Health(patience=2, action="stop", min_tool_rate=None))


def test_how_rollouts_end_is_logged(tmp_path: Path) -> None:
    ended = Group(SAMPLE, [*rollouts_that(StopReason.ANSWERED, 4).trajectories, trajectory()])
    ended.trajectories[2].stop_reason = StopReason.MAX_TURNS
    (metrics,) = fit(tmp_path, Learner([ended]), 1, Health())
    assert metrics["health/stop/answered"] == pytest.approx(2 / 3)
    assert metrics["health/stop/max_turns"] == pytest.approx(1 / 3)
    assert metrics["health/truncation"] == 0.0
    assert metrics["health/length"] == pytest.approx(8 / 3)
    assert metrics["health/length_growth"] == 1.0


def test_alarms_count_on_over_a_resume() -> None:
    before, after = Health(patience=3), Health(patience=3)
    metrics = {"rollout/tool_rate": 0.0}
    assert not before._look(metrics, 1)
    assert not before._look(metrics, 2)
    after.load_state_dict(before.state_dict())
    (message,) = after._look(metrics, 3)
    assert message.startswith("Step 3: rollout/tool_rate is 0")
    again = Health(patience=3)
    again.load_state_dict(after.state_dict())
    assert not again._look(metrics, 4), "said before the resume"


def test_an_alarm_without_limit_never_goes_off() -> None:
    assert not Health(patience=1, min_tool_rate=None)._look({"rollout/tool_rate": 0.0}, 1)


def test_a_healthy_run_hears_nothing(tmp_path: Path) -> None:
    fine = {"rollout/tool_rate": 0.5, "rl/zero_variance_groups": 0.3, "rl/logprob_gap": 1e-5}
    assert len(fit(tmp_path, Learner([], [fine] * 3), 3, Health(patience=1, action="stop"))) == 3


@pytest.mark.parametrize(
    "wrong", [{"min_tool_rate": -1}, {"max_zero_variance": 2}, {"max_logprob_gap": 0}, {"patience": 0}, {"action": "x"}]
)
def test_health_refuses_what_it_cannot_mean(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Health: {next(iter(wrong))}"):
        Health(**wrong)
