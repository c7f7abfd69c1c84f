"""Validation before the first step gives every curve its first point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from callbacks.validate_first import ValidateFirst
from cv_lightning.cli.compose import compose
from tests.callbacks.test_checkpoints import Module

SHARED = Path(__file__).parents[2] / "experiments" / "shared"


class Noted(Module):
    """Records the order of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        assert self.training
        self.notes.append(f"train {batch_idx}")
        super().training_step(batch, batch_idx)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.notes.append(f"validate {batch_idx}")
        self.log("val/steps", float(self.global_step))


def fit(callback: ValidateFirst, folder: Path, resume: Path | None = None, **changes: Any) -> tuple[Noted, Trainer]:
    batches: Any = DataLoader(torch.ones(4, 3), batch_size=2)
    arguments: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    arguments |= {"accelerator": "cpu", "num_sanity_val_steps": 0, "max_epochs": 1, "default_root_dir": folder}
    module, trainer = Noted(), Trainer(callbacks=[callback], **arguments | changes)
    trainer.fit(module, batches, batches, ckpt_path=resume)
    return module, trainer


def test_the_policy_that_training_starts_from_is_validated(tmp_path: Path) -> None:
    module, trainer = fit(ValidateFirst(), tmp_path)
    first = ["validate 0", "validate 1"]
    assert module.notes == [*first, "train 0", "train 1", *first]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, _ = fit(ValidateFirst(), tmp_path, tmp_path / "last.ckpt", max_epochs=2)
    assert resumed.notes == ["train 0", "train 1", *first]


@pytest.mark.parametrize(("enabled", "changes"), [(False, {}), (True, {"limit_val_batches": 0})])
def test_nothing_is_validated_first_if_nobody_asks(enabled: bool, changes: dict[str, Any], tmp_path: Path) -> None:
    module, _ = fit(ValidateFirst(enabled), tmp_path, **changes)
    assert module.notes[:2] == ["train 0", "train 1"]


@pytest.mark.parametrize("value", [True, False])
def test_the_shared_block_has_a_switch(value: bool) -> None:
    config = compose(
        [SHARED.parent / "tiny" / "rl.yaml", SHARED / "validation.yaml"], {"settings.val_before_train": value}
    )
    (first,) = [each for each in config["trainer"]["callbacks"] if each["class_path"] == "callbacks.ValidateFirst"]
    assert first["init_args"] == {"enabled": value}
