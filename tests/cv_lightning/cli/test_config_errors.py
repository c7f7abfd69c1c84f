"""Each mistake in a config or on the command line ends in one line that names it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cv_lightning.cli.stage_config import error_of, write


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
    "trainer value": (put("trainer.max_steps", "many"), ["trainer.max_steps: expected int, got 'many'"]),
    "argument": (
        put("model.init_args.lrr", 1),
        ["model.init_args.lrr", "fake_stages.FakeModule", "Did you mean 'lr'?"],
    ),
    "type": (put("model.init_args.lr", "high"), ["model.init_args.lr: expected float, got 'high'"]),
    "nested argument": (
        put("model.init_args.policy.init_args.widht", 3),
        ["model.init_args.policy.init_args.widht", "'width'"],
    ),
    "nested type": (
        put("model.init_args.policy.init_args.width", "wide"),
        ["model.init_args.policy.init_args.width", "expected int, got 'wide'"],
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
    assert "model: required" in error_of(["fit", "--config", write(config)], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.max_step=3"], ["On the command line", "trainer.max_step:", "'trainer.max_steps'"]),
        (["--trainer.max_steps", "abc"], ["On the command line", "trainer.max_steps: expected int, got 'abc'"]),
        (["--model.init_args.lrr", "3"], ["On the command line", "'lrr'", "'lr'"]),
        (["--model.lrr", "3"], ["'lrr'", "'lr'"]),
        (["--ckpt_path", "none.ckpt"], ["ckpt_path", "'none.ckpt'"]),
        (["--config", "stag.yaml"], ["stag.yaml", "'stage.yaml'"]),
        (["--config", "broken.yaml"], ["broken.yaml", "cannot be read as YAML"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_on_the_command_line_is_named(
    arguments: list[str], words: list[str], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.yaml").write_text("model: [1\n  x: }", encoding="utf-8")
    error = error_of(["fit", "--config", write(config), *arguments], capsys)
    assert [word for word in words if word not in error] == [], error
