"""Ctrl-C stops training after the current step and leaves a checkpoint, or a line says that there is none."""

from __future__ import annotations

import copy
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from cv_lightning.__main__ import main
from cv_lightning.cli.lightning_cli import run_command
from tests.cv_lightning.cli.stage_config import write


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
