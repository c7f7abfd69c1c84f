"""Throughput: rates by hand, FLOPs by the formula, and no value if it is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from callbacks.throughput import Throughput, flops, memory_metrics, passed_parameters, rollout_metrics, step_metrics
from cv_lightning.errors import ConfigError
from cv_lightning.types import Group, Reply, Rollouts, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import Observation
from tests.callbacks.steps import SAMPLE, Learner, fit, trajectory

IMAGE = Image.new("RGB", (4, 4))


class Model(nn.Module):
    """Names as in a Qwen model under PEFT: 6 x 4 embedding, 4 x 4 layer, 4 x 6 output head, 9 in the vision tower."""

    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        self.base_model = nn.ModuleDict({"visual": nn.Linear(3, 3, bias=False)})
        self.embed_tokens = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
        self.lm_head = nn.Linear(4, 6, bias=False)
        if is_tied:
            self.lm_head.weight = self.embed_tokens.weight


def test_parameters_that_every_token_passes() -> None:
    assert passed_parameters(Model(is_tied=False)) == (16 + 24, 24)
    assert passed_parameters(Model(is_tied=True)) == (16 + 24, 24)


def test_flops_are_those_of_the_formula() -> None:
    model: nn.Module = Model(is_tied=False)
    logged = {"train/tokens": 100.0}
    expected = 2 * 40 * 300 + (4 * 40 + 2 * 24) * 100
    assert flops(model, logged, 300) == expected  # type: ignore[arg-type]
    assert flops(model, {**logged, "rl/kl": 0.1}, 300) == expected + 2 * 40 * 100  # type: ignore[arg-type]


def test_shares_of_the_phases_add_up() -> None:
    logged = {"time/rollout_s": 1.0, "time/score_s": 0.1, "time/update_s": 0.5, "train/tokens": 1000.0}
    metrics = step_metrics(logged, 2.0)
    shares = [metrics[f"throughput/share/{phase}"] for phase in ("rollout", "score", "update", "other")]
    assert shares == pytest.approx([0.5, 0.05, 0.25, 0.2])
    assert metrics["throughput/training_tokens_per_s"] == 2000.0


def test_imitation_has_no_phases() -> None:
    assert step_metrics({"train/tokens": 1000.0}, 2.0) == {
        "throughput/step_s": 2.0,
        "throughput/training_tokens_per_s": 500.0,
    }


def test_rollouts_per_second_and_the_part_of_the_tools() -> None:
    turns = [
        Turn("", Reply(call=ToolCall("")), Observation("ok", lane="pillow", wall_s=0.1)),
        Turn("", Reply(call=ToolCall("")), Observation("error", lane="confined", wall_s=0.3)),
        Turn("", Reply(answer="A")),
    ]
    trajectory = Trajectory(SAMPLE, turns, [ViewedImage(IMAGE, 0, None, None)] * 2)
    logged = {"time/rollout_s": 1.0, "time/tools_s": 0.25, "rollout/sampled_tokens": 80.0}
    assert rollout_metrics(Rollouts([Group(SAMPLE, [trajectory])], [[]]), logged, 2.0) == pytest.approx(
        {
            "throughput/trajectories_per_s": 0.5,
            "throughput/images_per_s": 1.0,
            "throughput/rollout_tokens_per_s": 80.0,
            "throughput/share/tools": 0.125,
            "throughput/lane/pillow": 0.5,
            "throughput/lane/confined": 0.5,
            "throughput/call_s": 0.2,
        }
    )


def test_memory_of_this_process_is_seen() -> None:
    metrics = memory_metrics(torch.device("cpu"))
    assert 20 < metrics["throughput/memory_mb"] < 100_000
    assert "throughput/accelerator_memory_mb" not in metrics


def test_a_peak_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="Throughput: peak_tflops"):
        Throughput(peak_tflops=0)


def test_throughput_measures_each_step(tmp_path: Path) -> None:
    logged = {"train/tokens": 100.0, "time/rollout_s": 1e-4, "rollout/sampled_tokens": 10.0}
    module = Learner([Group(SAMPLE, [trajectory()]), None], [logged, logged])
    first, second = fit(tmp_path, module, 2, Throughput(peak_tflops=1.0))
    assert first["throughput/step_s"] > 0
    assert first["throughput/rollout_tokens_per_s"] == pytest.approx(1e5)
    assert first["throughput/mfu"] > 0
    assert "throughput/trajectories_per_s" in first
    assert "throughput/trajectories_per_s" not in second
