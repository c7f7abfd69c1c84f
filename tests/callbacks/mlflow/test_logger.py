"""Training goes on whatever MLflow does, and what was logged arrives."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.mlflow import logger as mlflow_logger
from callbacks.mlflow import sender as mlflow_sender
from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.mlflow.sender import Sender
from cv_lightning.errors import ConfigError


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
    """Accepts connections (the system does that) and never answers."""
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
    reports = [record.getMessage() for record in caplog.records if "does not take" in record.getMessage()]
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


# ---- a server that comes and goes ------------------------------------------------------------------------------------


class Refusal(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status

    def get_http_status_code(self) -> int:
        return self.status


class Store:
    """What MlflowClient offers, as far as we call it."""

    def __init__(self) -> None:
        self.is_down = False
        self.refused: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}

    def _look(self) -> None:
        if self.is_down:
            raise ConnectionError("connection refused")

    def _run(self, run_id: str) -> dict[str, Any]:
        self._look()
        if run_id not in self.runs:
            raise Refusal(404)
        return self.runs[run_id]

    def get_experiment_by_name(self, name: str) -> Any:
        self._look()
        return SimpleNamespace(experiment_id=name)

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str | None) -> Any:
        self._look()
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {"tags": tags, "name": run_name, "metrics": [], "params": {}, "files": [], "status": None}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        run = self._run(run_id)
        assert len(metrics) <= 1000
        assert len(params) <= 100
        if any(item.key in self.refused for item in (*metrics, *params)):
            raise Refusal(400)
        run["metrics"] += [(metric.key, metric.step, metric.value) for metric in metrics]
        run["params"] |= {param.key: param.value for param in params}

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self._run(run_id)["tags"][name] = value

    def log_artifact(self, run_id: str, path: str, to: str | None) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(path)
        self._run(run_id)["files"].append((Path(path).name, to))

    def update_run(self, run_id: str, status: str) -> None:
        self._run(run_id)["status"] = status

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._run(run_id)["status"] = status


STORE = "http://store.test"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    real = Sender._connected
    # Threads of earlier tests go on trying to reach their servers.
    monkeypatch.setattr(Sender, "_connected", lambda self: store if self.tracking_uri == STORE else real(self))
    monkeypatch.setattr(mlflow_sender, "RETRY_S", (0.01, 0.02))
    return store


def logger_in(folder: Path) -> BackgroundMLflowLogger:
    return BackgroundMLflowLogger(tracking_uri=STORE, folder=folder, run_name="sft", flush_s=20)


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_everything_arrives_and_no_file_is_left(store: Store, tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    logger.log_hyperparams({"optimizer": {"lr": 0.1}, **{f"p{n}": "x" * 600 for n in range(150)}})
    for step in range(1200):
        logger.log_metrics({"reward/total": float(step), "odd=name": 1.0}, step)
    (tmp_path / "page.html").touch()
    logger.log_artifact(tmp_path / "page.html", "report")
    logger.set_tags({"commit": "abc"})
    logger.finalize("success")
    (run,) = store.runs.values()
    assert [m for m in run["metrics"] if m[0] == "reward/total"] == [("reward/total", n, float(n)) for n in range(1200)]
    assert sum(name == "odd_name" for name, _, _ in run["metrics"]) == 1200
    assert run["params"]["optimizer/lr"] == "0.1"
    assert run["params"]["p149"] == "x" * 500
    assert (run["name"], run["tags"]["commit"], run["files"]) == ("sft", "abc", [("page.html", "report")])
    assert run["status"] == "FINISHED"
    assert not list(tmp_path.glob("*.jsonl"))
    logger.log_metrics({"test/accuracy/mean": 0.9}, 1200)  # a test after the fit goes to the same run
    logger.finalize("success")
    assert run["metrics"][-1] == ("test/accuracy/mean", 1200, 0.9)
    assert len(store.runs) == 1


def test_a_store_that_dies_is_reported_once_and_gets_all_when_it_is_back(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logger_in(tmp_path)
    logger.log_metrics({"a": 0.0}, 0)
    wait_until(lambda: logger.run_id and store.runs[logger.run_id]["metrics"])
    store.is_down = True
    for step in range(1, 50):
        logger.log_metrics({"a": 0.0}, step)
        time.sleep(0.002)
    wait_until(lambda: "does not take" in caplog.text)
    store.is_down = False
    logger.finalize("failed")
    (run,) = store.runs.values()
    assert [step for _, step, _ in run["metrics"]] == list(range(50))
    assert run["status"] == "FAILED"
    assert caplog.text.count("does not take") == 1
    assert caplog.text.count("answers again") == 1


def test_what_one_process_could_not_send_the_next_one_sends(store: Store, tmp_path: Path) -> None:
    store.is_down = True
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 1)
    first.finalize("failed")
    assert first._sender is not None
    lost = (tmp_path / "mlflow_unsent.jsonl").read_bytes()
    (tmp_path / "mlflow_unsent.jsonl").unlink()  # that process is gone, its lock with it
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "mlflow_unsent.jsonl").write_bytes(lost)
    first._sender.outbox.first = lambda limit: ([], [])  # type: ignore[method-assign]
    store.is_down = False
    second = logger_in(tmp_path / "later")
    second.log_metrics({"a": 2.0}, 2)
    second.finalize("success")
    assert [(run["metrics"], run["status"]) for run in store.runs.values()] == [
        ([("a", 1, 1.0)], "FAILED"),  # as it said itself
        ([("a", 2, 2.0)], "FINISHED"),
    ]


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


def test_a_killed_process_that_is_not_resumed_leaves_a_killed_run(store: Store, tmp_path: Path) -> None:
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 1)
    wait_until(lambda: first.run_id and store.runs[first.run_id]["metrics"])
    assert first._sender is not None
    os.close(first._sender.outbox._file)  # type: ignore[arg-type]
    first._sender.outbox._file = None
    second = logger_in(tmp_path)
    second.log_metrics({"a": 2.0}, 2)
    second.finalize("success")
    assert [run["status"] for run in store.runs.values()] == ["KILLED", "FINISHED"]


@pytest.mark.parametrize("note", ["", "[]", '{"tracking_uri": "http://other", "experiment": "cv_lightning"}'])
def test_a_note_of_another_store_or_a_broken_one_resumes_nothing(store: Store, tmp_path: Path, note: str) -> None:
    (tmp_path / "mlflow_run.json").write_text(note, encoding="utf-8")
    logger = logger_in(tmp_path)
    logger.resume()
    assert logger._sender is None
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    assert len(store.runs) == 1


def test_what_mlflow_refuses_or_cannot_read_holds_up_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.refused = {"bad"}
    logger = logger_in(tmp_path)
    logger.log_hyperparams({"bad": 1})
    logger.log_artifact(tmp_path / "missing.png")
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    (run,) = store.runs.values()
    assert run["metrics"] == [("a", 1, 1.0)]
    assert "missing.png was given up" in caplog.text
    assert "refused params" in caplog.text


def test_a_store_that_has_forgotten_the_run_gets_a_new_one(store: Store, tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    wait_until(lambda: logger.run_id and store.runs[logger.run_id]["metrics"])
    store.runs = {"another": {}}
    logger.log_metrics({"a": 2.0}, 2)
    wait_until(lambda: store.runs.get("run1", {}).get("metrics") == [("a", 2, 2.0)])


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


def test_an_artifact_store_that_cannot_be_written_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(mlflow_sender, "RETRY_S", (0.01, 0.02))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = BackgroundMLflowLogger(
        "plates", "rl", uri, artifact_location="file:///proc/no/such/store", folder=tmp_path, flush_s=60
    )
    (tmp_path / "page.html").touch()
    logger.log_artifact(tmp_path / "page.html")
    logger.log_metrics({"a": 1.0}, 1)
    for _ in range(3):  # a flush ends at the first failure
        logger.finalize("success")
    assert "page.html was given up" in caplog.text
    assert "/proc/no" in caplog.text
    assert logger.run_id is not None
    assert MlflowClient(uri).get_run(logger.run_id).data.metrics == {"a": 1.0}


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
