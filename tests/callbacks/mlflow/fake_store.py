"""A fake of MLflow's store that can be down and come back, and a logger that sends to it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from callbacks.mlflow.logger import BackgroundMLflowLogger


class Refusal(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status

    def get_http_status_code(self) -> int:
        return self.status


class Store:
    """The part of MlflowClient that we call."""

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


def logger_in(folder: Path) -> BackgroundMLflowLogger:
    return BackgroundMLflowLogger(tracking_uri=STORE, folder=folder, run_name="sft", flush_s=20)


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
