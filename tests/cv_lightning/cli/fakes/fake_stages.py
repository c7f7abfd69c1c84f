"""Small stand-ins for the project's modules: found by class_path, as the real ones are."""

from __future__ import annotations

import os
import signal
import time

import torch
from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from cv_lightning.errors import ConfigError

ORIENTATIONS = ("upright", "rot90", "rot180", "rot270", "hflip", "vflip")


class FakePolicy(torch.nn.Module):
    def __init__(self, width: int = 3, source: str | None = None) -> None:
        super().__init__()
        self.source = source
        self.linear = torch.nn.Linear(width, 1)


class FakeModule(LightningModule):
    """Learns nothing of interest; its test step logs `accuracy` for every orientation."""

    def __init__(
        self,
        policy: FakePolicy,
        lr: float = 0.1,
        accuracy: float = 0.5,
        interrupt_at: int = -1,
        fail: bool = False,
        step_s: float = 0.0,
    ) -> None:
        super().__init__()
        if fail:
            raise ConfigError("fail: this module was asked to fail")
        self.policy, self.lr, self.accuracy, self.interrupt_at, self.step_s = policy, lr, accuracy, interrupt_at, step_s

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        time.sleep(self.step_s)
        if self.global_step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        loss = self.policy.linear(batch).square().mean()
        self.log("train/loss" if self.global_step < 2 else "train/later_loss", loss)
        return loss

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        for orientation in ORIENTATIONS:
            self.log(f"test/accuracy/{orientation}", self.accuracy)
            self.log(f"test/tool_rate/{orientation}", 0.0 if orientation == "upright" else 1.0)
            self.log(f"test/restored_rate/{orientation}", 0.75)
        self.log("test/accuracy/mean", self.accuracy)
        self.log("test/mean_turns/mean", 1.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class FakeData(LightningDataModule):
    def __init__(self, n: int = 64, width: int = 3) -> None:
        super().__init__()
        self.data = torch.ones(n, width)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(self.data, batch_size=2)

    def test_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(self.data[:2], batch_size=2)
