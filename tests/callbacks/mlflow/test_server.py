"""A real MLflow server is killed during a run and comes back: training continues, and all records arrive."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from callbacks.mlflow import sender as mlflow_sender
from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.trajectories import write_trajectories
from callbacks.trajectory_choice import Picked
from cv_lightning.types import Reply, RewardBreakdown, Sample, Trajectory, Turn, ViewedImage
from tests.callbacks.mlflow.fake_store import wait_until

N_STEPS = 30


class Server:
    """`mlflow server` in its own process group; it is killed, not asked to end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        deadline = time.monotonic() + 150
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text(encoding="utf-8")
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", float(batch_idx))
        return super().training_step(batch, batch_idx)


class Script(Callback):
    """Kills the server after 10 steps, logs a trajectory while it is gone, and starts it again after 20."""

    def __init__(self, server: Server, logger: BackgroundMLflowLogger, folder: Path) -> None:
        self.server, self.logger, self.folder = server, logger, folder
        self.slowest_s = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.slowest_s = max(self.slowest_s, time.monotonic() - self.started)
        if trainer.global_step == 10:
            wait_until(lambda: self.logger.run_id is not None)
            self.server.kill()
        if trainer.global_step == 15:
            image = Image.new("RGB", (6, 4), "red")
            sample = Sample("0", "Read.", (image,), "A")
            done = Trajectory(sample, [Turn("A", Reply(answer="A"))], [ViewedImage(image, 0, None, None)])
            write_trajectories([Picked("best", done, RewardBreakdown({"a": 1.0}, True))], self.folder, "Step", 15)
            self.logger.log_traces(self.folder, 15)
            self.logger.log_artifact(self.folder, "trajectories")
        if trainer.global_step == 20:
            self.server.start()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_is_killed_and_restarted_gets_all(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(mlflow_sender, "RETRY_S", (0.1, 1.0))
    server.start()
    logger = BackgroundMLflowLogger("e", "rl", server.uri, folder=tmp_path / "rl", flush_s=120)
    script = Script(server, logger, tmp_path / "step")
    trainer = Trainer(
        accelerator="cpu",
        max_steps=N_STEPS,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[script],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path / "rl",
    )
    trainer.fit(Model())
    assert trainer.global_step == N_STEPS
    assert script.slowest_s < 2.0, "no step waited for the server"
    assert caplog.text.count("does not accept records") == 1
    assert caplog.text.count("answers again") == 1
    assert not list((tmp_path / "rl").glob("mlflow_unsent*"))
    client = MlflowClient(server.uri)
    assert logger.run_id is not None
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(logger.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, float(step)) for step in range(N_STEPS)]
    assert {file.path for file in client.list_artifacts(logger.run_id, "trajectories")} == {
        "trajectories/images",
        "trajectories/index.html",
        "trajectories/trajectories.jsonl",
    }
    (trace,) = client.search_traces(locations=[run.info.experiment_id])
    assert sorted(one.name for one in trace.info.assessments) == ["expected_response", "is_right", "reward", "reward.a"]
    assert (trace.info.state.value, trace.info.trace_metadata["mlflow.trace.session"][:6]) == ("OK", "s15-g0")
    content = trace.data.spans[0].inputs["messages"][0]["content"]
    attachment = content[1]["image_url"]["url"].split("//")[1].split("?")[0]
    repository = get_artifact_repository(trace.info.tags["mlflow.artifactLocation"], tracking_uri=server.uri)
    with Image.open(repository.download_artifacts(f"attachments/{attachment}")) as image:
        assert image.size == (6, 4)
