"""The command line: its runs, its output, and the error of each mistake."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cv_lightning.__main__ import main
from cv_lightning.cli.interrupt import resume_checkpoint
from cv_lightning.cli.lightning_cli import _innermost, run_command
from cv_lightning.errors import CheckpointError
from tests.cv_lightning.cli.stage_config import write


def test_print_config_shows_what_overrides_and_interpolation_lead_to(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["fit", "--config", write(config), "--run_folder", "elsewhere", "--model.lr", "0.25", "--print_config"])
    assert ending.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["default_root_dir"] == "elsewhere/base"
    assert printed["trainer"]["callbacks"][0]["init_args"]["dirpath"] == "elsewhere/base/checkpoints"
    assert printed["model"]["init_args"]["policy"]["init_args"]["source"] == "elsewhere/before/policy"
    assert printed["model"]["init_args"]["lr"] == 0.25


def test_command_line_reaches_values_deep_in_a_config(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config["data"] = {
        "class_path": "cv_lightning.data.EpisodeDataModule",
        "init_args": {
            "builder": {
                "class_path": "cv_lightning.data.EpisodeBuilder",
                "init_args": {"source": {"class_path": "cv_lightning.data.PlateWorld", "init_args": {"width": 84}}},
            }
        },
    }
    world = "data.init_args.builder.init_args.source.init_args"
    with pytest.raises(SystemExit):
        main(["fit", "--config", write(config), f"--{world}.width=100", f"--{world}.height", "90", "--print_config"])
    builder = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["builder"]
    source = builder.get("init_args", builder)["source"]["init_args"]
    assert (source["width"], source["height"]) == (100, 90)


@pytest.mark.parametrize(
    "arguments", [["--config", "experiments/tiny/sft.yaml"], ["--config=experiments/tiny/sft.yaml"]]
)
def test_config_of_the_checkout_is_found_from_any_working_directory(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", *arguments, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["default_root_dir"] == "runs/tiny/sft"


def test_fit_then_test_and_the_saved_config_runs_again(config: dict[str, Any]) -> None:
    trained = run_command(["fit", "--config", write(config), "--trainer.max_steps=3"])
    assert trained.trainer.global_step == 3
    assert trained.trainer.callbacks
    saved = yaml.safe_load(Path("runs/fake/base/config_fit.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["max_steps"] == 3
    tested = run_command(
        ["test", "--config", "stage.yaml", "--ckpt_path", str(resume_checkpoint(Path("runs/fake/base")))]
    )
    assert float(tested.trainer.callback_metrics["test/accuracy/rot90"]) == 0.5
    again = run_command(["fit", "--config", "runs/fake/base/config_fit.yaml", "--run_folder=again"])
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.parametrize(("quiet", "level"), [("", logging.INFO), ("1", logging.WARNING)])
def test_quiet_leaves_out_what_lightning_says_of_itself(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, quiet: str, level: int
) -> None:
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setenv("CV_LIGHTNING_QUIET", quiet)
    run_command(["fit", "--config", write(config), "--trainer.max_steps=1"])
    assert [logger.level for logger in loggers] == [level, level]


def test_an_error_of_ours_is_what_is_said_whatever_caused_it() -> None:
    explained = CheckpointError("the hub cannot be reached")
    explained.__cause__ = OSError("no route")
    wrapped = ValueError("no type of the union fits")
    wrapped.__cause__ = explained
    assert _innermost(wrapped) is explained
