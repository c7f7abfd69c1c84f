"""A Lightning run that is interrupted and resumed from its checkpoint is one run in MLflow, with all of its steps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.checkpoints import LastCheckpoint
from callbacks.config_and_code import ConfigAndCode
from callbacks.mlflow.logger import BackgroundMLflowLogger


class Model(BoringModel):
    def __init__(self, breaks_at: int, error: type[BaseException] | None) -> None:
        super().__init__()
        self.breaks_at, self.error = breaks_at, error

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.error is not None and batch_idx == self.breaks_at:
            raise self.error
        self.log("train/loss", torch.tensor(float(batch_idx)))
        return super().training_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/accuracy/mean", 0.5)


def trainer_in(folder: Path) -> tuple[Trainer, BackgroundMLflowLogger]:
    uri = f"sqlite:///{folder}/mlflow.db"
    logger = BackgroundMLflowLogger("e", "rl", uri, folder=folder / "rl", flush_s=120)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        limit_val_batches=0,
        limit_test_batches=1,
        log_every_n_steps=1,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder / "rl",
        callbacks=[LastCheckpoint(every_steps=1), ConfigAndCode()],
    )
    return trainer, logger


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (SIGTERMException, "KILLED"), (RuntimeError, "FAILED")]
)
def test_one_run_over_an_interruption_a_resume_and_a_test(
    tmp_path: Path, error: type[BaseException], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.tracking import MlflowClient

    config = tmp_path / "rl" / "config_fit.yaml"
    config.parent.mkdir()
    config.write_text("ckpt_path: null\n", encoding="utf-8")
    handler = signal.getsignal(signal.SIGINT)
    trainer, first = trainer_in(tmp_path)
    try:
        with pytest.raises((SystemExit, RuntimeError)):
            trainer.fit(Model(3, error))
    finally:
        signal.signal(signal.SIGINT, handler)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert first.run_id is not None
    assert client.get_run(first.run_id).info.status == status
    checkpoint = tmp_path / "rl" / "checkpoints" / "last.ckpt"
    config.write_text(f"ckpt_path: {checkpoint}\n", encoding="utf-8")  # as the command line saves it
    trainer, second = trainer_in(tmp_path)
    trainer.fit(Model(3, None), ckpt_path=checkpoint, weights_only=True)
    assert second.run_id == first.run_id
    tester, third = trainer_in(tmp_path)
    tester.test(Model(3, None), ckpt_path=checkpoint, weights_only=True, verbose=False)
    assert third.run_id == first.run_id
    assert len(client.search_runs([client.get_experiment_by_name("e").experiment_id])) == 1
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(first.run_id, "train/loss")] == list(range(6))
    assert run.data.metrics["test/accuracy/mean"] == 0.5
    assert run.data.params["ckpt_path"] == "None"
    assert "refused" not in caplog.text
