"""The policy is exported once, at the end; a module without a policy is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.export import ExportPolicy
from cv_lightning.errors import ConfigError


class Policy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.exported: list[Path] = []

    def export(self, folder: Path) -> None:
        self.exported.append(folder)


class Module(BoringModel):
    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.policy = Policy()
        self.stop_at = stop_at

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.stop_at:
            raise KeyboardInterrupt
        assert not self.policy.exported, "exported before the end"
        return super().training_step(batch, batch_idx)


def fit(folder: Path, module: LightningModule, callback: ExportPolicy) -> None:
    Trainer(
        accelerator="cpu",
        max_steps=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback],
    ).fit(module)


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_policy_is_exported_once_at_the_end(tmp_path: Path, given: str | None) -> None:
    module = Module()
    fit(tmp_path, module, ExportPolicy(given))
    assert module.policy.exported == [tmp_path / "policy" if given is None else Path(given)]


def test_an_interrupted_fit_exports_nothing(tmp_path: Path) -> None:
    module = Module(stop_at=1)
    with pytest.raises(SystemExit):
        fit(tmp_path, module, ExportPolicy())
    assert not module.policy.exported


def test_a_module_without_policy_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BoringModel has no attribute `policy`"):
        fit(tmp_path, BoringModel(), ExportPolicy())
