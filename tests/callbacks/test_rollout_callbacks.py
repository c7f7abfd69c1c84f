"""What the callbacks say about rollouts: numbers worked out by hand, and when they say nothing."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.health import Health
from callbacks.reward_components import RewardComponents, component_metrics, family_metrics
from callbacks.throughput import Throughput
from callbacks.tool_usage import ToolUsage, tool_metrics
from callbacks.trajectories import Trajectories
from cv_lightning.errors import ConfigError, TrainingError
from cv_lightning.types import Group, Reply, RewardBreakdown, Rollouts, Sample, StopReason, ToolCall, Trajectory, Turn
from modules.base import PolicyModule, StepOutput
from sandbox import Observation

SAMPLE = Sample("0", "Read.", (Image.new("RGB", (4, 4)),), "A")


def trajectory(*observations: Observation) -> Trajectory:
    turns = [Turn("call", Reply(call=ToolCall("")), observation) for observation in observations]
    return Trajectory(SAMPLE, [*turns, Turn("answer", Reply(answer="A"))])


def paid(is_right: bool | None = True, **terms: float) -> RewardBreakdown:
    return RewardBreakdown(terms, is_right)


class Learner(LightningModule):
    """Returns the rollouts and metrics that it is told to; logs as the modules of this project do."""

    on_train_batch_end = PolicyModule.on_train_batch_end
    is_logged = PolicyModule.is_logged

    def __init__(self, groups: Sequence[Group | None], measured: Sequence[dict[str, float]] = ()) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.groups, self.measured = groups, measured

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> StepOutput:
        optimizer: Any = self.optimizers()
        optimizer.step()
        output: StepOutput = {"metrics": dict(self.measured[batch_idx]) if batch_idx < len(self.measured) else {}}
        if batch_idx < len(self.groups) and (group := self.groups[batch_idx]) is not None:
            paid_G = [paid(index == 0, accuracy=1.0 - index) for index, _ in enumerate(group.trajectories)]
            output["rollouts"] = Rollouts([group], [paid_G])
        return output

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Recorder(Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.steps.append(dict(outputs["metrics"]))


def fit(folder: Path, module: LightningModule, steps: int, *callbacks: Callback) -> list[dict[str, float]]:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, recorder],
    )
    trainer.fit(module, DataLoader(torch.zeros(steps, 1)))  # type: ignore[arg-type]
    return recorder.steps


# ---- reward components -----------------------------------------------------------------------------------------------


def test_shares_and_correlations_of_a_group_worked_out_by_hand() -> None:
    # Totals 1.5, 1.0, 0.5, 0.0, deviations .75 .25 -.25 -.75: variance sum 1.25. "accuracy" deviates by .5 .5 -.5 -.5:
    # product with the total .375 + .125 + .125 + .375 = 1.0; "exact" by .25 -.25 .25 -.25: .25.
    group = [
        paid(True, accuracy=1.0, exact=0.5),
        paid(True, accuracy=1.0, exact=0.0),
        paid(False, accuracy=0.0, exact=0.5),
        paid(False, accuracy=0.0, exact=0.0),
    ]
    metrics = component_metrics([group, [paid(None, accuracy=9.0, exact=9.0)]])
    assert metrics == pytest.approx(
        {
            "components/std/accuracy": 0.5,
            "components/std/exact": 0.25,
            "components/share/accuracy": 0.8,
            "components/share/exact": 0.2,
            "components/correlation/accuracy": 1.0,
            "components/correlation/exact": 0.0,
        }
    )


def test_variance_between_groups_explains_no_advantage() -> None:
    metrics = component_metrics([[paid(accuracy=1.0)] * 2, [paid(False, accuracy=0.0)] * 2])
    assert metrics["components/std/accuracy"] == 0.5
    assert not [name for name in metrics if "share" in name]


@given(
    st.lists(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_shares_add_up_to_one(values: list[list[tuple[float, float]]]) -> None:
    metrics = component_metrics([[paid(a=a, b=b) for a, b in group] for group in values])
    shares = [value for name, value in metrics.items() if "share" in name]
    assert not shares or sum(shares) == pytest.approx(1.0, abs=1e-6)


def test_families_have_means_of_their_own() -> None:
    metrics = family_metrics(["plates", "chart"], [[paid(True, a=1.0), paid(False, a=0.0)], [paid(None, a=1.0)]])
    expected = {
        "components/reward/plates": 0.5,
        "components/accuracy/plates": 0.5,
        "components/mean/a/plates": 0.5,
        "components/std/a/plates": 0.5,
        "components/share/a/plates": 1.0,
        "components/correlation/a/plates": 1.0,
    }
    assert metrics == pytest.approx(expected)


def test_only_rollouts_of_the_training_step_are_shown(tmp_path: Path) -> None:
    group = Group(SAMPLE, [trajectory(), trajectory()])
    first, second, third = fit(tmp_path, Learner([None, group, None]), 3, RewardComponents(), ToolUsage())
    assert not first
    assert second["components/share/accuracy"] == 1.0
    assert second["tools/calls"] == 0.0
    assert not third


def test_a_module_without_rollouts_logs_nothing(tmp_path: Path) -> None:
    assert fit(tmp_path, Learner([]), 1, RewardComponents(), ToolUsage(), Trajectories(tmp_path / "t")) == [{}]
    assert not (tmp_path / "t").exists()


# ---- tools -----------------------------------------------------------------------------------------------------------


def test_tools_count_where_their_call_ran() -> None:
    failed, turned = Observation("error", tools=("blur",)), Observation("ok", tools=("rotate_90", "contrast"))
    metrics = tool_metrics([trajectory(failed, turned), trajectory(failed), trajectory()], {"rotate_90", "contrast"})
    assert metrics == pytest.approx(
        {
            "tools/calls": 1.0,
            "tools/error_rate": 2 / 3,
            "tools/recovery_rate": 1 / 2,
            "tools/emergent_rate": 1 / 3,
            "tools/used/contrast": 1 / 3,
            "tools/used/rotate_90": 1 / 3,
            "tools/success_rate": 1 / 3,
            "tools/error/other": 2 / 3,
            "tools/chain_length": 2.0,
            "tools/family/geometry": 0.5,
            "tools/family/enhancement": 0.5,
            "tools/family/sketching": 0.0,
            "tools/family/numeric": 0.0,
            "tools/family/other": 0.0,
            "tools/entropy": math.log(2),
            "tools/spurious_rate": 1 / 3,
        }
    )


def test_first_step_of_an_emergent_tool_is_kept_over_a_resume(tmp_path: Path) -> None:
    contrast = Group(SAMPLE, [trajectory(Observation("ok", tools=("contrast", "rotate_90", "rotate")))])
    usage = ToolUsage()
    steps = fit(tmp_path, Learner([Group(SAMPLE, [trajectory()]), contrast, contrast]), 3, usage)
    assert usage.emergent.first_step == {"contrast": 2}
    assert [step.get("tools/first_step/contrast") for step in steps] == [None, 2.0, None]
    resumed = ToolUsage()
    resumed.load_state_dict(usage.state_dict())
    steps = fit(tmp_path, Learner([contrast, Group(SAMPLE, [trajectory()])]), 2, resumed)
    assert resumed.emergent.first_step == {"contrast": 2}
    assert steps[-1]["tools/used/rotate_90"] == 0.0


# ---- health ----------------------------------------------------------------------------------------------------------

COLLAPSE = [{"rollout/tool_rate": rate} for rate in (0.0, 0.5, 0.0, 0.0, 0.0, 0.0)]


def test_an_alarm_goes_off_once_after_bad_steps_in_a_row(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, Learner([], COLLAPSE), 6, Health(patience=2))
    messages = [str(w.message) for w in caught if "rollout/tool_rate" in str(w.message)]
    assert len(messages) == 1
    assert messages[0].startswith("Step 4: rollout/tool_rate is 0;")
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


def test_a_metric_that_is_not_defined_in_a_step_is_not_logged_again(tmp_path: Path) -> None:
    failed = Group(SAMPLE, [trajectory(Observation("error"), Observation("ok"))])
    first, second = fit(tmp_path, Learner([failed, Group(SAMPLE, [trajectory()])]), 2, ToolUsage())
    assert first["tools/recovery_rate"] == 1.0
    assert "tools/recovery_rate" not in second
    assert "tools/calls" in second


def test_nor_does_a_logger_get_it_again(tmp_path: Path) -> None:
    failed = Group(SAMPLE, [trajectory(Observation("error"), Observation("ok"))])
    module = Learner([failed, Group(SAMPLE, [trajectory()])])
    logger = CSVLogger(tmp_path)
    settings: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=logger, enable_checkpointing=False, callbacks=[ToolUsage()], **settings
    )
    trainer.fit(module, DataLoader(torch.zeros(2, 1)))  # type: ignore[arg-type]
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8")))
    assert [row["tools/recovery_rate"] for row in rows] == ["1.0", ""]
    assert [row["tools/calls"] for row in rows] == ["2.0", "0.0"]


def test_the_table_of_emergent_tools_is_written_when_due_and_at_the_end(tmp_path: Path) -> None:
    contrast = [Group(SAMPLE, [trajectory(Observation("ok", tools=("contrast",)))]) for _ in range(5)]
    fit(tmp_path, Learner(contrast), 5, ToolUsage(table_every_n_steps=2))
    table = json.loads((tmp_path / "emergent_tools.json").read_text(encoding="utf-8"))
    assert [row[:2] for row in table["data"]] == [[2, "contrast"], [4, "contrast"], [5, "contrast"]]


def test_throughput_measures_each_step(tmp_path: Path) -> None:
    logged = {"train/tokens": 100.0, "time/rollout_s": 1e-4, "rollout/sampled_tokens": 10.0}
    module = Learner([Group(SAMPLE, [trajectory()]), None], [logged, logged])
    first, second = fit(tmp_path, module, 2, Throughput(peak_tflops=1.0))
    assert first["throughput/step_s"] > 0
    assert first["throughput/rollout_tokens_per_s"] == pytest.approx(1e5)
    assert first["throughput/mfu"] > 0
    assert "throughput/trajectories_per_s" in first
    assert "throughput/trajectories_per_s" not in second


def test_a_healthy_run_hears_nothing(tmp_path: Path) -> None:
    fine = {"rollout/tool_rate": 0.5, "rl/zero_variance_groups": 0.3, "rl/logprob_gap": 1e-5}
    assert len(fit(tmp_path, Learner([], [fine] * 3), 3, Health(patience=1, action="stop"))) == 3


@pytest.mark.parametrize(
    "wrong", [{"min_tool_rate": -1}, {"max_zero_variance": 2}, {"max_logprob_gap": 0}, {"patience": 0}, {"action": "x"}]
)
def test_health_refuses_what_it_cannot_mean(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Health: {next(iter(wrong))}"):
        Health(**wrong)
