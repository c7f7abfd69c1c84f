"""Training steps for callbacks to watch: a learner that returns given groups, and the metrics of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from cv_lightning.types import Group, Reply, RewardBreakdown, Rollouts, Sample, ToolCall, Trajectory, Turn
from modules.base import PolicyModule, StepOutput
from sandbox import Observation

SAMPLE = Sample("0", "Read.", (Image.new("RGB", (4, 4)),), "A")


def trajectory(*observations: Observation) -> Trajectory:
    turns = [Turn("call", Reply(call=ToolCall("")), observation) for observation in observations]
    return Trajectory(SAMPLE, [*turns, Turn("answer", Reply(answer="A"))])


def paid(is_right: bool | None = True, **terms: float) -> RewardBreakdown:
    return RewardBreakdown(terms, is_right)


class Learner(LightningModule):
    """Returns given rollouts and metrics; logs in the same way as the modules of this project."""

    on_train_batch_end = PolicyModule.on_train_batch_end
    is_logged = PolicyModule.is_logged

    def __init__(self, groups: Sequence[Group | None], measured: Sequence[dict[str, float]] = ()) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.groups, self.measured = groups, measured

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> StepOutput:
        optimizer: Any = self.optimizers()
        optimizer.step()
        output: StepOutput = {"metrics": dict(self.measured[batch_idx]) if batch_idx < len(self.measured) else {}}
        if batch_idx < len(self.groups) and (group := self.groups[batch_idx]) is not None:
            paid_G = [paid(index == 0, accuracy=1.0 - index) for index, _ in enumerate(group.trajectories)]
            output["rollouts"] = Rollouts([group], [paid_G])
        return output

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Recorder(Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.steps.append(dict(outputs["metrics"]))


def fit(folder: Path, module: LightningModule, steps: int, *callbacks: Callback) -> list[dict[str, float]]:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, recorder],
    )
    trainer.fit(module, DataLoader(torch.zeros(steps, 1)))  # type: ignore[arg-type]
    return recorder.steps
