"""The command line: what runs, what it says, and what each mistake ends in."""

from __future__ import annotations

import copy
import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from cv_lightning.__main__ import COMMANDS, main
from cv_lightning.cli.interrupt import resume_checkpoint
from cv_lightning.cli.lightning_cli import _innermost, run_command
from cv_lightning.errors import CheckpointError, DataError

ROOT = Path(__file__).parents[3]
FAKES = Path(__file__).parent / "fakes"


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The fake stage's config, to be broken; the working directory is an empty folder."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.chdir(tmp_path)
    return yaml.safe_load((FAKES / "stage.yaml").read_text(encoding="utf-8"))


def write(config: dict[str, Any], path: str = "stage.yaml") -> str:
    Path(path).write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line that a wrong command line ends in."""
    assert main(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "Namespace" not in lines[0]
    assert "NestedArg" not in lines[0]
    return lines[0]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a config: set the value at a dotted path (numbers are list indices)."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = config
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        node[last] = value

    return change


MISTAKES = {
    "top-level key": (put("trainr", {"max_steps": 1}), ["trainr", "Did you mean 'trainer'"]),
    "trainer key": (put("trainer.max_step", 3), ["trainer.max_step:", "'trainer.max_steps'"]),
    "trainer value": (put("trainer.max_steps", "many"), ["trainer.max_steps: expected int but got 'many'"]),
    "argument": (
        put("model.init_args.lrr", 1),
        ["model.init_args.lrr", "fake_stages.FakeModule", "Did you mean 'lr'?"],
    ),
    "type": (put("model.init_args.lr", "high"), ["model.init_args.lr: expected float but got 'high'"]),
    "nested argument": (
        put("model.init_args.policy.init_args.widht", 3),
        ["model.init_args.policy.init_args.widht", "'width'"],
    ),
    "nested type": (
        put("model.init_args.policy.init_args.width", "wide"),
        ["model.init_args.policy.init_args.width", "expected int but got 'wide'"],
    ),
    "class": (put("model.class_path", "fake_stages.FakeModul"), ["model:", "'FakeModul'", "'FakeModule'"]),
    "module": (
        put("model.class_path", "module.sft.SFTModule"),
        ["'module.sft.SFTModule'", "Write 'modules.SFTModule'"],
    ),
    "submodule": (
        put("model.class_path", "modules.sftt.SFTModul"),
        ["'modules.sftt.SFTModul'", "'modules.sft'"],
    ),
    "other kind of class": (
        put("model.class_path", "fake_stages.FakeData"),
        ["model: expected LightningModule", "FakeData"],
    ),
    "callback class": (
        put("trainer.callbacks.0.class_path", "lightning.pytorch.callbacks.ModelCheckpont"),
        ["trainer.callbacks", "'ModelCheckpont'", "'ModelCheckpoint'"],
    ),
    "callback argument": (put("trainer.callbacks.0.init_args.dirpth", "x"), ["'dirpth'", "'dirpath'"]),
    "data argument": (put("data.init_args", {"m": 3}), ["data.init_args.m", "fake_stages.FakeData"]),
    "interpolation": (put("trainer.default_root_dir", "${run_foldr}/x"), ["${run_foldr}", "no key"]),
    "constructor": (put("model.init_args.fail", True), ["this module was asked to fail"]),
    "device": (put("trainer.devices", "0"), ["trainer: ", "devices"]),
    "strategy": (put("trainer.strategy", "nope"), ["trainer: ", "strategy='nope'"]),
    "strategy of another accelerator": (put("trainer.strategy", "fsdp"), ["trainer: ", "fsdp"]),
    "accelerator": (put("trainer.accelerator", "xpu"), ["trainer: ", "accelerator='xpu'"]),
    "accelerator that is not there": (put("trainer.accelerator", "tpu"), ["trainer: ", "torch_xla"]),
    "package that is not installed": (put("trainer.strategy", "deepspeed"), ["trainer: ", "deepspeed"]),
    "precision": (put("trainer.precision", "17"), ["trainer.precision: expected", "'17'"]),
    "class that moved": (
        put("trainer.callbacks", [{"class_path": "callbacks.mlflow_logger.BackgroundMLflowLogger"}]),
        ["trainer.callbacks: ", "Write 'callbacks.mlflow.BackgroundMLflowLogger'"],
    ),
    "data that moved": (
        put("data", {"class_path": "cv_lightning.data.robustness.RobustnessDataModule"}),
        ["data: ", "Write 'cv_lightning.evaluation.RobustnessDataModule'"],
    ),
}


@pytest.mark.parametrize(("change", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_in_a_config_is_named(
    change: Callable[[dict[str, Any]], None],
    words: list[str],
    config: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(config)
    error = error_of(["fit", "--config", write(config)], capsys)
    assert [word for word in words if word not in error] == [], error


REAL_MODULE = {
    "class_path": "modules.GRPOModule",
    "init_args": {
        "policy": {"class_path": "modules.policy.Policy", "init_args": {"build": {"layers": 1}}},
        "rollout": {"max_turns": 2, "limits": {"wall_s": 1.0}},
    },
}
MISTAKES_IN_A_REAL_MODULE = {
    "dataclass key": (put("model.init_args.rollout.max_turn", 3), ["init_args.rollout.max_turn:", "'max_turns'"]),
    "nested dataclass key": (put("model.init_args.rollout.limits.wal_s", 3), ["rollout.limits.wal_s:", "'wall_s'"]),
    "dataclass type": (put("model.init_args.optimizer", {"lr": "fast"}), ["optimizer.lr: expected float", "'fast'"]),
    "choice": (put("model.init_args.optimizer", {"name": "sgd"}), ["optimizer.name", "'adamw', 'muon'", "'sgd'"]),
    "argument of a base": (put("model.init_args.rolout", {"max_turns": 3}), ["init_args.rolout:", "'rollout'"]),
    "dataclass value": (put("model.init_args.optimizer", {"lr": -1.0}), ["optimizer.lr", "-1.0"]),
    "group size": (put("model.init_args.group_size", 1), ["group_size", "at least 2"]),
    "policy size": (
        put("model.init_args.policy.init_args.build.hidden", 64),
        ["policy.init_args.build.hidden", "'hidden_size'"],
    ),
}


@pytest.mark.parametrize(("change", "words"), MISTAKES_IN_A_REAL_MODULE.values(), ids=MISTAKES_IN_A_REAL_MODULE)
def test_mistake_in_the_config_of_a_real_module_is_named(
    change: Callable[[dict[str, Any]], None],
    words: list[str],
    config: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config["model"] = copy.deepcopy(REAL_MODULE)
    change(config)
    error = error_of(["fit", "--config", write(config)], capsys)
    assert [word for word in words if word not in error] == [], error


def test_missing_model_is_named(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    del config["model"]
    assert "model must be given" in error_of(["fit", "--config", write(config)], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.max_step=3"], ["On the command line", "trainer.max_step:", "'trainer.max_steps'"]),
        (["--trainer.max_steps", "abc"], ["On the command line", "trainer.max_steps: expected int but got 'abc'"]),
        (["--model.init_args.lrr", "3"], ["On the command line", "'lrr'", "'lr'"]),
        (["--model.lrr", "3"], ["'lrr'", "'lr'"]),
        (["--ckpt_path", "none.ckpt"], ["ckpt_path", "'none.ckpt'"]),
        (["--config", "stag.yaml"], ["stag.yaml", "'stage.yaml'"]),
        (["--config", "broken.yaml"], ["broken.yaml", "not valid YAML"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_on_the_command_line_is_named(
    arguments: list[str], words: list[str], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.yaml").write_text("model: [1\n  x: }", encoding="utf-8")
    error = error_of(["fit", "--config", write(config), *arguments], capsys)
    assert [word for word in words if word not in error] == [], error


@pytest.mark.parametrize(
    ("arguments", "meant"), [(["reproduse"], "reproduce"), (["data", "chekc", "x"], "data check"), (["dat"], "data")]
)
def test_unknown_command_is_named(arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(arguments, capsys)
    assert repr(" ".join(arguments[:2])) in error
    assert meant in error


def test_other_errors_of_ours_end_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise DataError("Row 3: no image")

    monkeypatch.setattr("cv_lightning.cli.reproduce.main", fail)
    assert error_of(["reproduce"], capsys, code=1) == "error: Row 3: no image"


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["data"], ["reproduce", "--help"], ["--version"], ["reproduce", "--seed", "x"]]
)
def test_light_commands_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom cv_lightning.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'transformers', 'mlflow', 'kornia', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_more_is_one_line(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: list[str]) -> int:
        raise OSError(code, os.strerror(code), "runs/tiny/run_fit.json")

    monkeypatch.setattr("cv_lightning.__main__.run", full)
    assert main(["fit"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/tiny/run_fit.json: {os.strerror(code)}.")
    monkeypatch.setattr("cv_lightning.__main__.run", lambda arguments: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError, match="x"):
        main(["fit"])


def test_help_lists_the_commands_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_help_of_a_command_begins_with_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["fit", "--help"])
    assert ending.value.code == 0
    text = capsys.readouterr().out
    assert "--config FILE" in text.splitlines()[0]
    assert "--trainer.max_steps" in text
    assert "--optimizer" not in text


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


def test_ctrl_c_on_a_full_disk_says_that_there_is_no_checkpoint(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(self: Trainer, path: Path, **_: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Trainer, "save_checkpoint", is_full)
    before = signal.getsignal(signal.SIGINT)
    config["trainer"]["callbacks"] = []
    config["model"]["init_args"]["interrupt_at"] = 2
    assert main(["fit", "--config", write(config)]) == 1
    said = capsys.readouterr().err
    assert "last.ckpt: the checkpoint of step 3 cannot be written (No space left on device)" in said
    assert "Traceback" not in said
    assert not list(Path("runs/fake/base/checkpoints").iterdir())
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config["trainer"]["callbacks"] = []
    config["model"]["init_args"]["interrupt_at"] = 2
    uninterrupted = copy.deepcopy(config)
    uninterrupted["model"]["init_args"]["interrupt_at"] = -1
    assert main(["fit", "--config", write(config)]) == 130
    checkpoint = Path("runs/fake/base/checkpoints/last.ckpt")
    assert f"--ckpt_path {checkpoint}" in capsys.readouterr().err
    assert torch.load(checkpoint, weights_only=False)["global_step"] == 3
    resumed = run_command(["fit", "--config", "stage.yaml", "--ckpt_path", str(checkpoint)])
    assert resumed.trainer.global_step == 4
    straight = run_command(["fit", "--config", write(uninterrupted, "straight.yaml")])
    for name, value in straight.model.state_dict().items():
        assert torch.allclose(value, resumed.model.state_dict()[name])


def test_an_error_of_ours_is_what_is_said_whatever_caused_it() -> None:
    explained = CheckpointError("the hub cannot be reached")
    explained.__cause__ = OSError("no route")
    wrapped = ValueError("no type of the union fits")
    wrapped.__cause__ = explained
    assert _innermost(wrapped) is explained
