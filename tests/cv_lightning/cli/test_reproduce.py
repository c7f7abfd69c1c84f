"""Recipes: which stages run, are skipped or run again, the effect of Ctrl-C, and the report."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.cli.compose import ROOT
from cv_lightning.cli.recipe import load_recipe
from cv_lightning.cli.reproduce import aggregate, logged, overrides_by_stage
from cv_lightning.cli.stage import Progress
from cv_lightning.console.versions import versions
from cv_lightning.errors import ConfigError
from tests.cv_lightning.cli.fake_recipe import FAKES, RECIPE, replace, report, reproduce


def test_report_has_the_published_shape(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce() == 0
    entry = report()
    assert list(entry["stages"]) == ["base", "sft", "rl"]
    assert entry["seeds"] == [0]
    assert entry["versions"] == versions()
    stage = entry["stages"]["rl"]
    assert stage["accuracy"] == dict.fromkeys(["upright", "rot90", "rot180", "rot270", "hflip", "vflip"], 0.5)
    assert stage["mean"] == 0.5
    assert stage["tool_rate"]["upright"] == 0.0
    assert stage["restored_rate"]["vflip"] == 0.75
    assert stage["mean_turns"] == 1.5
    assert stage["seconds"] > 0
    assert stage["peak_memory_mb"] > 10
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("upright", "rot270", "restored", "report.json"))


def test_finished_stages_are_skipped_and_a_changed_one_takes_its_dependents_along(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce() == 0
    trained = {name: Path(f"runs/fake/{name}/stage.json").stat().st_mtime_ns for name in ("base", "sft", "rl")}
    replace(recipe / "sft.yaml", "max_steps: 4", "max_steps: 5")
    replace(recipe / "stage.yaml", "accelerator: cpu", "accelerator:   cpu # layout and comments do not count")
    capsys.readouterr()
    assert reproduce() == 0
    said = capsys.readouterr().out
    assert "1/3 base: already finished" in said
    assert "sft: its config, seed or a stage it reads has changed" in said
    assert "rl: its config, seed or a stage it reads has changed" in said
    assert Path("runs/fake/base/stage.json").stat().st_mtime_ns == trained["base"]
    assert Path("runs/fake/rl/stage.json").stat().st_mtime_ns > trained["rl"]


def test_a_stage_that_fails_leaves_the_other_arms_and_is_named_in_the_report(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(recipe / "recipe.yaml", "run_folder: runs/fake", "run_folder: runs/fake\nhas_claims: true")
    replace(recipe / "sft.yaml", "init_args:\n    policy", "init_args:\n    fail: true\n    policy")
    assert reproduce() == 1
    entry = report()
    assert list(entry["stages"]) == ["base"]
    assert entry["failed"]["rl"] == "it reads sft, which failed"
    assert "this module was asked to fail" in entry["failed"]["sft"]
    reasons = {claim["name"]: claim["reason"] for claim in entry["claims"]}
    assert reasons["brittleness"].startswith("base: runs/fake/base: no test answers")
    assert reasons["RL after SFT"].startswith("rl: it reads sft, which failed; sft: failed: ")
    assert reasons["no cold start, no tools"].startswith("rl_without_sft: the recipe has no such stage")
    assert "rl: it reads sft, which failed" in capsys.readouterr().out
    replace(recipe / "sft.yaml", "fail: true", "fail: false")
    assert reproduce() == 0
    assert report()["failed"] == {}


@pytest.mark.parametrize("jobs", ["0", "two"])
def test_a_recipe_with_no_stage_at_a_time_is_refused(
    jobs: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(recipe / "recipe.yaml", "run_folder: runs/fake", f"run_folder: runs/fake\njobs: {jobs}")
    assert reproduce() == 2
    assert "jobs: expected a whole number of at least 1" in capsys.readouterr().err


def test_ctrl_c_stops_between_steps_and_the_same_command_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(recipe / "sft.yaml", "init_args:\n    policy", "init_args:\n    interrupt_at: 2\n    policy")
    assert reproduce() == 130
    captured = capsys.readouterr()
    assert "the same command continues from here: python -m cv_lightning reproduce" in captured.err
    progress = Progress.load(Path("runs/fake/sft"))
    assert progress is not None
    assert progress.status == "training"
    assert not Path("runs/fake/report.json").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert reproduce() == 0
    said = capsys.readouterr().out
    assert "base: already finished" in said
    assert "sft: resuming from runs/fake/sft/checkpoints/last.ckpt" in said
    entry = report()["stages"]["sft"]
    assert entry["seconds"] >= round(progress.seconds, 1)
    with Path("runs/fake/sft/metrics.csv").open(encoding="utf-8") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [0, 1, 2, 3, 4]


def test_folder_that_reproduce_did_not_make_is_kept(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = Path("runs/fake/base/precious.txt")
    precious.parent.mkdir(parents=True)
    precious.write_text("mine", encoding="utf-8")
    assert reproduce("--stages", "base") == 0
    assert Path("runs/fake/base.old1/precious.txt").read_text(encoding="utf-8") == "mine"
    assert "moved to runs/fake/base.old1" in capsys.readouterr().out


def test_seeds_have_folders_of_their_own_and_are_summed_up(recipe: Path) -> None:
    assert reproduce("--stages", "base", "--seeds", "0", "1", "--out", "runs/many") == 0
    entry = report("runs/many")
    assert entry["seeds"] == [0, 1]
    assert entry["stages"]["base"]["min"] == {
        "accuracy": report("runs/many/seed_1")["stages"]["base"]["accuracy"],
        "mean": 0.5,
    }
    saved = Path("runs/many/seed_1/base/config_fit.yaml").read_text(encoding="utf-8")
    assert "seed_everything: 1" in saved
    assert "source: runs/many/seed_1/before/policy" in saved


def test_overrides_reach_the_stages_they_name(recipe: Path) -> None:
    assert reproduce("--overrides", "trainer.max_steps=1", "rl:model.init_args.accuracy=0.25") == 0
    stages = report()["stages"]
    assert (stages["sft"]["mean"], stages["rl"]["mean"]) == (0.5, 0.25)
    assert "max_steps: 1\n" in Path("runs/fake/sft/config_fit.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stages", "slf"], ["'slf'", "'sft'"]),
        (["--overrides", "trainer.max_steps"], ["[STAGE:]KEY=VALUE"]),
        (["--overrides", "lr:trainer.max_steps=1"], ["'lr'", "rl"]),
        (["--overrides", "trainer.max_step=1"], ["trainer.max_step", "'trainer.max_steps'"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--stage", "sft"], ["--stage"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_is_named(
    arguments: list[str], words: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(*arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert [word for word in words if word not in error] == [], error


def test_overrides_go_to_all_stages_or_to_one(recipe: Path) -> None:
    loaded = load_recipe(Path(RECIPE))
    assert overrides_by_stage(["a.b=1", "sft:c=x=y"], loaded) == {
        "base": ["--a.b=1"],
        "sft": ["--a.b=1", "--c=x=y"],
        "rl": ["--a.b=1"],
    }


rates = st.fixed_dictionaries({name: st.floats(0, 1) for name in ("upright", "rot90")})


entries = st.lists(st.tuples(rates, st.floats(0, 1)), min_size=1, max_size=4)


@given(entries)
def test_minimum_is_never_above_the_mean(rows: list[tuple[dict[str, float], float]]) -> None:
    reports = [
        {
            "stages": {"rl": {"accuracy": accuracy, "mean": mean, "seconds": 1.0}},
            "seeds": [seed],
            "versions": {},
            "peak_memory_mb": seed,
        }
        for seed, (accuracy, mean) in enumerate(rows)
    ]
    stage = aggregate(reports)["stages"]["rl"]
    assert stage["seconds"] == 1.0
    assert stage["min"]["mean"] <= stage["mean"] + 1e-12
    assert all(stage["min"]["accuracy"][name] <= rate + 1e-12 for name, rate in stage["accuracy"].items())


def test_ctrl_c_from_a_terminal_ends_in_130_and_resumes(recipe: Path, tmp_path: Path) -> None:
    replace(recipe / "stage.yaml", "init_args:\n    policy", "init_args:\n    step_s: 0.2\n    policy")
    replace(recipe / "stage.yaml", "max_steps: 4", "max_steps: 30")
    command = [sys.executable, "-m", "cv_lightning", "reproduce", "--recipe", RECIPE, "--stages", "base"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{FAKES}"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "runs/fake/base/checkpoints"
    while not list(checkpoints.glob("*.ckpt")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "continues from here" in error
    last = max(checkpoints.glob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert 2 <= torch.load(last, weights_only=False)["global_step"] < 30


def test_loggers_of_the_recipe_take_the_report(recipe: Path) -> None:
    path = recipe / "recipe.yaml"
    entry = "{class_path: file_logger.FileLogger, init_args: {folder: '${run_folder}/sent'}}"
    path.write_text(path.read_text(encoding="utf-8") + f"\nreport_loggers: [{entry}]\n", encoding="utf-8")
    assert reproduce("--stages", "base") == 0
    lines = Path("runs/fake/sent/log.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["report.json", "report.html", "success"]


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[{class_path: file_logger.Missing}]", "Missing"),
        ("[{class_path: no_such_module.Logger}]", "no_such_module"),
        ("[{class_path: file_logger.FileLogger, init_args: {path: x}}]", "path"),
        ("[{init_args: {}}]", "class_path"),
        ("[{class_path: file_logger.FileLogger, args: {}}]", "args"),
        ("tiny", "class_path"),
    ],
)
def test_loggers_that_cannot_be_made_are_named(recipe: Path, loggers: str, message: str) -> None:
    path = recipe / "recipe.yaml"
    path.write_text(path.read_text(encoding="utf-8") + f"\nreport_loggers: {loggers}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message), logged(load_recipe(path), Path("runs")):
        pytest.fail("the stages would run before anybody says so")


def test_loggers_of_the_recipe_are_told_of_a_failure(recipe: Path) -> None:
    path = recipe / "recipe.yaml"
    entry = "{class_path: file_logger.FileLogger, init_args: {folder: '${run_folder}/sent'}}"
    path.write_text(path.read_text(encoding="utf-8") + f"\nreport_loggers: [{entry}]\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), logged(load_recipe(path), Path("runs")):
        raise KeyboardInterrupt
    assert Path("runs/sent/log.txt").read_text(encoding="utf-8").splitlines() == ["failed"]
