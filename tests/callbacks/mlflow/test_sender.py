"""Logged records arrive in order whenever the store comes back; a refused record does not hold up the others."""

from __future__ import annotations

import builtins
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from callbacks.mlflow import sender as mlflow_sender
from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.mlflow.outbox import Outbox
from tests.callbacks.mlflow.fake_store import Store, logger_in, wait_until


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
    wait_until(lambda: "does not accept" in caplog.text)
    store.is_down = False
    logger.finalize("failed")
    (run,) = store.runs.values()
    assert [step for _, step, _ in run["metrics"]] == list(range(50))
    assert run["status"] == "FAILED"
    assert caplog.text.count("does not accept") == 1
    assert caplog.text.count("answers again") == 1


def test_what_one_process_could_not_send_the_next_one_sends(store: Store, tmp_path: Path) -> None:
    store.is_down = True
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 1)
    first.finalize("failed")
    assert first._sender is not None
    lost = (tmp_path / "mlflow_unsent.jsonl").read_bytes()
    (tmp_path / "mlflow_unsent.jsonl").unlink()  # that process has ended, and its lock is gone
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "mlflow_unsent.jsonl").write_bytes(lost)
    first._sender.outbox.first = lambda limit: ([], [])  # type: ignore[method-assign]
    store.is_down = False
    second = logger_in(tmp_path / "later")
    second.log_metrics({"a": 2.0}, 2)
    second.finalize("success")
    assert [(run["metrics"], run["status"]) for run in store.runs.values()] == [
        ([("a", 1, 1.0)], "FAILED"),  # the status that it reported itself
        ([("a", 2, 2.0)], "FINISHED"),
    ]


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
    assert "gave up sending the artifact" in caplog.text
    assert "refused some records (params)" in caplog.text


def test_a_store_that_has_forgotten_the_run_gets_a_new_one(store: Store, tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    wait_until(lambda: logger.run_id and store.runs[logger.run_id]["metrics"])
    store.runs = {"another": {}}
    logger.log_metrics({"a": 2.0}, 2)
    wait_until(lambda: store.runs.get("run1", {}).get("metrics") == [("a", 2, 2.0)])


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
    assert "gave up sending the artifact" in caplog.text
    assert "/proc/no" in caplog.text
    assert logger.run_id is not None
    assert MlflowClient(uri).get_run(logger.run_id).data.metrics == {"a": 1.0}


def test_only_one_thread_imports_mlflow_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importing, most, import_module = [0], [0], builtins.__import__

    def watched(name: str, *arguments: Any) -> Any:
        if name != "mlflow.tracking":
            return import_module(name, *arguments)
        importing[0] += 1
        most[0] = max(most[0], importing[0])
        time.sleep(0.05)  # the other threads come here meanwhile, unless they have to wait
        importing[0] -= 1
        return import_module(name, *arguments)

    senders = [
        mlflow_sender.Sender(f"sqlite:///{tmp_path}/{n}.db", None, Outbox(tmp_path, str(n)), str(n)) for n in range(3)
    ]
    monkeypatch.setattr(builtins, "__import__", watched)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda sender: sender._connected(), senders))
    assert most == [1]
