"""Training continues whatever MLflow does, and all logged values arrive."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.mlflow import logger as mlflow_logger
from callbacks.mlflow import sender as mlflow_sender
from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.errors import ConfigError
from tests.callbacks.mlflow.fake_store import Store, logger_in, wait_until


class Logging(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", 1.0 + batch_idx)
        return super().training_step(batch, batch_idx)


def fit(folder: Path, logger: BackgroundMLflowLogger, steps: int = 3) -> float:
    """Train and return how long it took, in seconds."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    started = time.monotonic()
    trainer.fit(Logging())
    assert trainer.global_step == steps
    return time.monotonic() - started


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "mlflow_unsent.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(records: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [
        (record["step"], record["values"]["train/loss"])
        for record in records
        if record["kind"] == "metrics" and "train/loss" in record["values"]
    ]


# ---- a server that is not there --------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a listener that accepts connections (the system does that) and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_training_goes_on_where_nothing_listens(
    tmp_path: Path, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = BackgroundMLflowLogger(tracking_uri=f"http://127.0.0.1:{closed_port}", folder=tmp_path, flush_s=30)
    assert fit(tmp_path, logger) < 25
    assert losses(kept(tmp_path)) == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert logger.run_id is None
    reports = [record.getMessage() for record in caplog.records if "does not accept" in record.getMessage()]
    assert len(reports) == 1
    assert str(closed_port) in reports[0]
    assert str(tmp_path / "mlflow_unsent.jsonl") in reports[0]
    assert (tmp_path / "checkpoints").is_dir(), "checkpoints lie in the folder, not below the working directory"


def test_training_goes_on_where_the_server_never_answers(tmp_path: Path, silent_port: int) -> None:
    logger = BackgroundMLflowLogger(tracking_uri=f"http://127.0.0.1:{silent_port}", folder=tmp_path, flush_s=1.0)
    started = time.monotonic()
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_artifact(tmp_path / "any")
    assert time.monotonic() - started < 0.5
    assert fit(tmp_path, logger) < 8
    assert len(losses(kept(tmp_path))) == 3


# ---- a run and its resume --------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_killed_and_its_resume_goes_on_in_it(store: Store, tmp_path: Path) -> None:
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 1)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        first.finalize("failed")  # as Lightning does
    (run,) = store.runs.values()
    assert run["status"] == "KILLED"
    second = logger_in(tmp_path)
    second.resume()
    assert second.run_id == "run0"
    wait_until(lambda: run["status"] == "RUNNING")
    second.log_metrics({"a": 2.0}, 2)
    second.finalize("success")
    assert (run["metrics"], run["status"]) == ([("a", 1, 1.0), ("a", 2, 2.0)], "FINISHED")
    third = logger_in(tmp_path)  # not resumed: another run
    third.log_metrics({"a": 3.0}, 1)
    third.finalize("success")
    assert [run["metrics"] for run in store.runs.values()][1:] == [[("a", 1, 3.0)]]


def test_a_process_that_was_killed_before_mlflow_was_reached_is_resumed_too(store: Store, tmp_path: Path) -> None:
    store.is_down = True
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 1)
    assert first._sender is not None
    os.close(first._sender.outbox._file)  # type: ignore[arg-type]  # a killed process has no lock any more
    first._sender.outbox._file = None
    store.is_down = False
    second = logger_in(tmp_path)
    second.resume()
    second.log_metrics({"a": 2.0}, 2)
    second.finalize("success")
    (run,) = store.runs.values()
    assert (run["metrics"], run["status"]) == ([("a", 1, 1.0), ("a", 2, 2.0)], "FINISHED")


@pytest.mark.parametrize("note", ["", "[]", '{"tracking_uri": "http://other", "experiment": "cv_lightning"}'])
def test_a_note_of_another_store_or_a_broken_one_resumes_nothing(store: Store, tmp_path: Path, note: str) -> None:
    (tmp_path / "mlflow_run.json").write_text(note, encoding="utf-8")
    logger = logger_in(tmp_path)
    logger.resume()
    assert logger._sender is None
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    assert len(store.runs) == 1


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    logger = logger_in(tmp_path / "file")
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    logger.finalize("success")
    assert caplog.text.count("cannot write to") == 1


# ---- SQLite ----------------------------------------------------------------------------------------------------------


def test_a_sqlite_file_holds_the_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/deep/mlflow.db"
    logger = BackgroundMLflowLogger("plates", "rl", uri, tags={"stage": "rl"}, folder=tmp_path, flush_s=120)
    (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
    logger.log_artifact(tmp_path / "note.txt")
    logger.log_hyperparams({"seed": 3})
    fit(tmp_path, logger)
    assert not list(tmp_path.glob("*.jsonl"))
    assert logger.run_id is not None
    client = MlflowClient(uri)
    run = client.get_run(logger.run_id)
    history = client.get_metric_history(logger.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert (run.info.run_name, run.info.status, run.data.tags["stage"]) == ("rl", "FINISHED", "rl")
    assert run.data.params["seed"] == "3"
    assert [file.path for file in client.list_artifacts(logger.run_id)] == ["note.txt"]
    assert list((tmp_path / "deep" / "mlartifacts").rglob("note.txt"))


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("runs/mlflow.db", "sqlite:///runs/mlflow.db"),
        ("file:./mlruns", "sqlite:///runs/mlflow.db"),
        ("htp://host:5000", "http://host:5000"),
        ("http://", "http://host:5000"),
        ("http://host:port", "http://host:5000"),
        ("http://[host", "http://host:5000"),
        ("sqlite://runs/mlflow.db", "three slashes"),
        ("sqlite", "sqlite:///runs/mlflow.db"),
        ("", "sqlite:///runs/mlflow.db"),
    ],
)
def test_an_address_that_mlflow_cannot_use_is_refused_with_the_remedy(uri: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        BackgroundMLflowLogger(tracking_uri=uri)
    assert remedy in str(error.value)
    assert repr(uri) in str(error.value)


def test_mlflow_is_not_imported_before_something_is_logged() -> None:
    for module in (mlflow_logger, mlflow_sender):
        names = {name for name, value in vars(module).items() if isinstance(value, ModuleType)}
        assert "mlflow" not in names
        assert not [value for value in vars(module).values() if getattr(value, "__module__", "").startswith("mlflow.")]
