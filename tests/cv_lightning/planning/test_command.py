"""The command, from config to verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.__main__ import main
from cv_lightning.errors import ConfigError
from cv_lightning.planning import command
from cv_lightning.planning.command import main as plan

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def planned(capsys: pytest.CaptureFixture[str], config: str, *options: str) -> dict[str, Any]:
    plan(["--config", str(EXPERIMENTS / config), "--json", *options])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_stage_has_the_shapes_of_the_stage_that_it_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = planned(capsys, "tiny/rl.yaml", "--run_folder", str(tmp_path))
    base = planned(capsys, "tiny/base.yaml", "--run_folder", str(tmp_path))
    assert f"{tmp_path}/sft/policy (does not exist yet; sft.yaml exports it)" in result["shapes"]
    assert "policy.build" in result["shapes"]
    assert result["parameters"] == base["parameters"]
    assert result["fits"]
    assert result["step"]["sequences"] == 32 * 4
    assert set(result["phase_bytes"]) == {"rollout", "score", "update", "optimizer step"}
    assert set(base["seconds"]) == {"update"}


def test_options_of_fit_and_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--devices", "8", "--memory", "80", "--tokens", "4096", "--images", "2", "--mfu", "0.5"]
    result = planned(capsys, "qwen2_5_vl_7b/rl.yaml", *options, "--data.batch_size", "2")
    step = result["step"]
    assert (step["devices"], step["tokens"], step["images"], step["sequences"]) == (8, 4096, 2, 16)
    assert step["patches"] == (448 // 28) ** 2 * 4
    assert result["tokens_of_all_devices"] == 8 * 16 * 4096
    # 28 layers of 4 heads of 128 features, keys and values in bfloat16.
    assert result["bytes"]["KV cache"] == 4 * 4096 * 28 * 2 * 4 * 128 * 2  # rollout.sequences_at_once: 4
    assert result["seconds"]["update"] == pytest.approx(result["flops"]["update"] / (0.5 * 989e12))
    assert not planned(capsys, "qwen2_5_vl_7b/rl.yaml", *options, "--trainer.strategy", "ddp")["fits"]


def test_adapters_fit_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    lora = ["--model.policy.lora", "{r: 16, target_modules: [q_proj, v_proj]}", "--data.batch_size", "1"]
    result = planned(capsys, "qwen3_vl_8b/rl.yaml", "--devices", "1", *lora)
    assert result["fits"]
    # Rank 16 on queries (4096 -> 4096) and values (4096 -> 1024) of 36 layers.
    assert sum(part["trained"] for part in result["parameters"].values()) == 36 * 16 * (2 * 4096 + 4096 + 1024)
    assert not result["bytes"]["reference"]


def test_text_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--config", str(EXPERIMENTS / "qwen3_vl_8b/sft.yaml")]
    assert main(command) == 0
    assert "\nfits: " in capsys.readouterr().out
    assert main([*command, "--trainer.strategy", "ddp"]) == 1
    text = capsys.readouterr().out
    assert "Qwen/Qwen3-VL-8B-Instruct, known without a download" in text
    assert "parameters: 8,767,123,696" in text
    assert "\ndoes not fit: " in text


@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("model", ["qwen2_5_vl_7b", "qwen3_vl_8b", "qwen3_vl_8b_thinking"])
def test_full_training_fits_eight_cards(model: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--config", str(EXPERIMENTS / f"codevision/{stage}.yaml")]
    result = planned(capsys, f"{model}/{stage}.yaml", *data, "--memory", "80")
    assert result["fits"], result["advice"]
    assert result["step"]["shards"] == 8


@pytest.mark.parametrize(("block", "devices", "engine"), [("beside", 5, 0), ("colocated", 8, 40 * 10**9)])
@pytest.mark.parametrize("model", ["qwen2_5_vl_7b", "qwen3_vl_8b"])
def test_an_engine_samples_beside_or_in_turn(
    model: str, block: str, devices: int, engine: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(EXPERIMENTS / f"engine/{block}.yaml"), "--memory", "80"]
    result = planned(capsys, f"{model}/rl.yaml", *options)
    assert result["fits"], result["advice"]
    assert result["step"]["devices"] == devices
    assert result["bytes"]["engine"] == engine
    assert result["bytes"]["KV cache"] == result["bytes"]["replica"] == result["bytes"]["activations, rollout"] == 0
    assert result["phase_bytes"]["rollout"] >= engine


@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("model", ["qwen2_5_vl_7b", "qwen3_vl_8b"])
@pytest.mark.parametrize("card", [24, 48, 80])
def test_adapters_fit_their_card(model: str, stage: str, card: int, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--config", str(EXPERIMENTS / f"codevision/{stage}.yaml")]
    block = ["--config", str(EXPERIMENTS / f"lora/{card}gb.yaml")]
    result = planned(capsys, f"{model}/{stage}.yaml", *data, *block, "--memory", str(card))
    assert result["fits"], result["advice"]
    assert result["peak_bytes"] > 0.4e9 * card, "a smaller block would do"


def test_fit_refuses_what_cannot_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "device_memory", lambda: 24e9)
    config = ["fit", "--config", str(EXPERIMENTS / "qwen2_5_vl_7b/sft.yaml")]
    assert main(config) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "of 24.0 GB can be used" in line
    assert "--memory_check off" in line
    refused = [
        each for each in ([], ["--memory_check", "off"], ["--trainer.accelerator", "cpu"]) if refuses(config + each)
    ]
    assert refused == [[]]
    monkeypatch.setattr(command, "device_memory", lambda: 250e9)
    assert not refuses(config)


def refuses(arguments: list[str]) -> bool:
    try:
        command.check_before_fit(arguments[1:])
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--config: expected a file"),
        (["--config", "tiny/base.yaml", "--mfu", "2"], "--mfu: expected more than 0 and at most 1, got 2"),
        (["--config", "tiny/base.yaml", "--memory", "0"], "--memory: expected more than 0, got 0"),
        (["--config", "tiny/base.yaml", "--memory", "nan"], "--memory: expected more than 0, got nan"),
        (["--config", "tiny/base.yaml", "--devices", "many"], "--devices"),
        (["--config", "tiny/base.yaml", "--trainer.max_step", "3"], "max_steps"),
        (["--config", "tiny/missing.yaml"], "There is no file"),
        (["--config", "tiny/rl.yaml", "--model.policy.source", "nowhere/at/all"], "has no config.json"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(EXPERIMENTS / each) if each.endswith(".yaml") else each for each in options]
    assert main(["plan", *arguments]) in {1, 2}
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
