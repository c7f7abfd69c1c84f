"""The thread that sends an outbox to MLflow."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from callbacks.mlflow.outbox import Outbox, Record
from callbacks.mlflow.parent import parent_tag

log = logging.getLogger(__name__)

#: Seconds until a store that failed is tried again: the first delay, and the longest.
RETRY_S = (2.0, 60.0)

#: Records that are read at once; metrics in one request (MLflow accepts 1,000); parameters in one request (100).
_N_RECORDS, _N_METRICS, _N_PARAMS = 500, 1000, 100

#: Failures after which an artifact is given up, so that the records behind it are sent.
_MAX_ARTIFACT_FAILURES = 3

#: Held during the import of mlflow. A recipe and its stage each have a sender; if two threads import parts of mlflow at
#: once, Python may end one import ("deadlock detected", "partially initialized module").
_IMPORTING = threading.Lock()


class Sender(threading.Thread):
    """Sends the records of an outbox, in order; retries failed records, and drops records that MLflow refuses.

    Args:
        tracking_uri: URI of the MLflow server.
        artifact_location: Place of the artifacts of new experiments; None: MLflow decides.
        outbox: The records to send.
        key: The run of this process; other runs in the outbox belong to processes that have ended.

    Attributes:
        run_ids: MLflow's run id for each key.
        on_run: Called with MLflow's id of this process's run once it is known.
    """

    def __init__(self, tracking_uri: str, artifact_location: str | None, outbox: Outbox, key: str) -> None:
        super().__init__(name="mlflow", daemon=True)  # a store that hangs must not hold up the end of the process
        self.tracking_uri = tracking_uri
        self.artifact_location = artifact_location
        self.outbox = outbox
        self.run_ids: dict[str, str] = {}
        self.on_run: Callable[[str], None] = lambda run_id: None
        self._key = key
        self._begins: dict[str, Record] = {}
        self._client: Any = None
        self._changed = threading.Condition()
        self._is_down = False
        self._has_refused = False
        self._n_failures = 0
        self._artifact_failures: dict[str, int] = {}
        self._n_attempts = 0
        self._is_hurried = False
        self._adopt(outbox.all())

    def put(self, record: Record, is_lasting: bool = False) -> None:
        """Add a record; see `Outbox.put`."""
        self.outbox.put(record, is_lasting)
        with self._changed:
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until all is sent, MLflow does not answer, or the time is over; logs which file holds the rest."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            attempts = self._n_attempts
            self._is_hurried = True
            self._changed.notify_all()
            while not self.outbox.is_empty and time.monotonic() < deadline:
                if self._is_down and self._n_attempts > attempts:
                    break
                self._changed.wait(deadline - time.monotonic())
            self._is_hurried = False
        self.outbox.remove_sent()
        if not self.outbox.is_empty:
            log.warning(
                "MLflow: %s has not received everything. The rest is in %s; the next run in that folder sends it.",
                self.tracking_uri,
                self.outbox.path,
            )

    def run(self) -> None:
        """Send until the process ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self.outbox.is_empty)
                if self._is_down:
                    delay = min(RETRY_S[0] * 2 ** (self._n_failures - 1), RETRY_S[1])
                    self._changed.wait_for(lambda: self._is_hurried, timeout=delay)
            error: Exception | None = None
            try:
                self._send_some()
            except Exception as failure:  # noqa: BLE001  # no error of MLflow may stop training
                error = failure
            with self._changed:
                self._note(error)
                self._changed.notify_all()

    def _note(self, error: Exception | None) -> None:
        """Remember whether the store answers; report a change."""
        self._n_attempts += 1
        if error is None:
            if self._is_down:
                log.warning("MLflow: %s answers again; the kept records are being sent.", self.tracking_uri)
            self._is_down, self._n_failures = False, 0
            return
        self._n_failures += 1
        self._is_hurried = False
        if not self._is_down:
            self._is_down = True
            log.warning(
                "MLflow: %s does not accept records (%s). Training continues; records are kept in %s.",
                self.tracking_uri,
                " ".join(str(error).split())[:200] or type(error).__name__,
                self.outbox.path,
            )

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send_some(self) -> None:
        """Send the next records; each is confirmed once the store has taken it."""
        records, ends = self.outbox.first(_N_RECORDS)
        if not records:  # retrying forever would keep a core and the trainer's interpreter busy
            self.outbox.give_up()
            raise OSError(f"the unsent records in {self.outbox.path} cannot be read back and are lost")
        numbered = list(zip(records, ends, strict=True))
        self._look_up(records)
        for (key, kind), group in groupby(numbered, key=lambda pair: (pair[0].get("run"), pair[0].get("kind"))):
            members = list(group)
            if kind == "metrics":
                self._offer(key, kind, [record for record, _ in members])
                self.outbox.confirm(members[-1][1])
            else:
                for record, end in members:
                    self._offer(key, kind, [record])
                    self.outbox.confirm(end)

    def _adopt(self, records: list[Record]) -> None:
        """End the runs that an earlier process could not end; their remaining records are sent first."""
        self._look_up(records)
        ended = {record["run"] for record in records if record.get("kind") == "end"}
        for key in set(self._begins) - ended - {self._key}:
            last_ms = max(record.get("time_ms", 0) for record in records if record.get("run") == key)
            self.outbox.put({"run": key, "kind": "end", "status": "KILLED", "time_ms": last_ms})

    def _look_up(self, records: list[Record]) -> None:
        """Learn which runs exist: an earlier process may have begun them."""
        for record in records:
            if record.get("kind") == "begin":
                self._begins.setdefault(record["run"], record)
            elif record.get("kind") == "run_id":
                self.run_ids.setdefault(record["run"], record["run_id"])

    def _offer(self, key: Any, kind: Any, records: list[Record]) -> None:
        """Send records of one kind; records that MLflow refuses are dropped, because it would refuse them again."""
        if key not in self._begins or kind == "run_id":
            return
        run_id = self._run_id(key)
        try:
            self._send(run_id, kind, records)
        except Exception as error:
            code = _status(error)
            if code == 404:  # the store has forgotten the run, or is another store
                self.run_ids.pop(key, None)
            if kind in ("artifact", "traces") and self._is_hopeless(records[0]["path"]):
                log.warning("MLflow: gave up sending the %s %s: %s", kind, records[0]["path"], error)
            elif code in (400, 409):
                if not self._has_refused:
                    log.warning("MLflow: refused some records (%s), which are dropped: %s", kind, str(error)[:300])
                self._has_refused = True
            else:
                raise

    def _is_hopeless(self, path: str) -> bool:
        self._artifact_failures[path] = self._artifact_failures.get(path, 0) + 1
        return self._artifact_failures[path] >= _MAX_ARTIFACT_FAILURES or not Path(path).exists()

    def _send(self, run_id: str, kind: str, records: list[Record]) -> None:
        client, record = self._connected(), records[0]
        if kind == "metrics":
            self._send_metrics(run_id, records)
        elif kind == "params":
            self._send_params(run_id, record)
        elif kind == "tags":
            for name, value in record["values"].items():
                client.set_tag(run_id, name, value)
        elif kind == "inputs":
            from callbacks.mlflow.inputs import entities

            client.log_inputs(run_id, entities(record["values"]))
        elif kind == "artifact":
            path = Path(record["path"])
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), record["to"])
        elif kind == "traces":
            from callbacks.mlflow.traces import send_traces

            send_traces(self.tracking_uri, client.get_run(run_id).info.experiment_id, run_id, record)
        elif kind == "resume":
            client.update_run(run_id, status="RUNNING")
        elif kind == "end":
            self._end(run_id, record)

    def _end(self, run_id: str, record: Record) -> None:
        # The parent may not have had an id when the run began.
        for name, value in parent_tag(self._begins[record["run"]], self.tracking_uri).items():
            self._connected().set_tag(run_id, name, value)
        self._connected().set_terminated(run_id, record["status"], end_time=record["time_ms"])

    def _send_params(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in record["values"].items()]
        for start in range(0, len(params), _N_PARAMS):
            self._connected().log_batch(run_id, params=params[start : start + _N_PARAMS])

    def _send_metrics(self, run_id: str, records: list[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, record["time_ms"], record["step"])
            for record in records
            for name, value in record["values"].items()
        ]
        for start in range(0, len(metrics), _N_METRICS):
            self._connected().log_batch(run_id, metrics=metrics[start : start + _N_METRICS])

    # ---- store and run -----------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        """The client; mlflow is imported here, in the background, because it takes seconds."""
        if self._client is None:
            # Otherwise mlflow prints tables and addresses between the lines of the progress.
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            with _IMPORTING:
                from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = MlflowClient(self.tracking_uri)
        return self._client

    def _run_id(self, key: str) -> str:
        """MLflow's run id of a key; creates the run if there is none yet."""
        if key not in self.run_ids:
            self.run_ids[key] = self._begun(self._begins[key])
            if key == self._key:
                self.on_run(self.run_ids[key])
            with contextlib.suppress(OSError):  # only a later process would need it
                self.outbox.put({"run": key, "kind": "run_id", "run_id": self.run_ids[key]}, is_lasting=True)
        return self.run_ids[key]

    def _begun(self, begin: Mapping[str, Any]) -> str:
        client = self._connected()
        from mlflow.tracking.context.registry import resolve_tags

        experiment = client.get_experiment_by_name(begin["experiment"])
        if experiment is None:
            with contextlib.suppress(_already_exists()):  # another process was faster
                client.create_experiment(begin["experiment"], artifact_location=self.artifact_location)
            experiment = client.get_experiment_by_name(begin["experiment"])
        tags = {**resolve_tags(dict(begin["tags"])), **parent_tag(begin, self.tracking_uri)}
        run = client.create_run(experiment.experiment_id, begin["time_ms"], tags=tags, run_name=begin["name"])
        run_id: str = run.info.run_id
        return run_id


def _already_exists() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    kind: type[Exception] = MlflowException
    return kind


def _status(error: Exception) -> int | None:
    """The HTTP status of an MLflow error; errors of local stores have a status too."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if callable(status) else None
