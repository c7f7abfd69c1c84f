"""An MLflow logger that never delays training: a thread sends records, and a file keeps those that cannot be sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.mlflow.outbox import Outbox
from callbacks.mlflow.parent import NOTE, RECIPE, STAGE
from callbacks.mlflow.sender import Sender
from cv_lightning.tracking.uri import check_uri, sqlite_path

#: Longest value of a parameter; longer values are cut.
_MAX_VALUE = 500

#: MLflow's settings for HTTP, unless the user has set them: the sender repeats failed requests itself.
_HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class BackgroundMLflowLogger(Logger):
    """Logs to MLflow from a thread of its own.

    A server that does not answer is reported once. Records then wait in `<folder>/mlflow_unsent.jsonl`. When the server
    is back, this process or the next that uses the folder sends them with their original times. The run id is
    saved in `<folder>/mlflow_run.json`, so that training which resumes from a checkpoint continues the same run; an
    interrupted run is KILLED until then.

    A logger with the tag `stage: recipe` is that of a whole recipe: runs become its children if they log to folders
    directly below its own, and to the same experiment of the same store.

    Args:
        experiment_name: MLflow's experiment; created if it does not exist.
        run_name: Name of the run; None leaves it to MLflow.
        tracking_uri: A SQLite file (`sqlite:///runs/mlflow.db`), a server (`http://host:5000`) or another database.
        artifact_location: Folder or address of a new experiment's artifacts; None takes `mlartifacts` beside a SQLite
            file; a server decides itself.
        tags: Tags of the run.
        folder: Folder of waiting records, and of `checkpoints` that have no other folder.
        flush_s: Longest wait for unsent records when a `fit` or `test` ends, in seconds.

    Attributes:
        run_id: MLflow's id of the run; None while MLflow has not been reached.
        is_resumed: Whether the logger logs to the run of an earlier process.

    Raises:
        ConfigError: A `tracking_uri` that MLflow cannot use.
    """

    def __init__(
        self,
        experiment_name: str = "cv_lightning",
        run_name: str | None = None,
        tracking_uri: str = "sqlite:///runs/mlflow.db",
        artifact_location: str | None = None,
        tags: dict[str, str] | None = None,
        folder: str | Path = "runs",
        flush_s: float = 30.0,
    ) -> None:
        super().__init__()
        check_uri(tracking_uri)
        self.tracking_uri = tracking_uri
        self.folder = Path(folder)
        self.flush_s = flush_s
        self._begin: dict[str, Any] = {"experiment": experiment_name, "name": run_name, "tags": tags or {}}
        self._begin["folder"] = str(folder)  # by which its parent is found
        self._artifact_location = artifact_location
        self._key = uuid.uuid4().hex
        self._known_run_id: str | None = None
        self.is_resumed = False
        self._sender: Sender | None = None
        self._has_lost = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Empty, like `version`: Lightning builds checkpoint paths from both, but a stage has a folder of its own."""
        return ""

    @property
    def version(self) -> str:
        """Empty; see `name`."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while MLflow has not been reached."""
        return self._sender.run_ids.get(self._key) if self._sender is not None else self._known_run_id

    @rank_zero_only
    def resume(self) -> None:
        """Log to the run that logged to this folder last, if it belongs to the same experiment of the same store.

        For training that resumes from a checkpoint; call it before anything is logged.
        """
        if self._sender is not None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no readable note: a new run
            left = json.loads(self._run_file.read_text(encoding="utf-8"))
            if (left["tracking_uri"], left["experiment"]) == (self.tracking_uri, self._begin["experiment"]):
                self._key, self._known_run_id = str(left["key"]), left["run_id"]
                self.is_resumed = True
                self._put("resume")

    @property
    def _run_file(self) -> Path:
        return self.folder / NOTE

    def _note_run(self, run_id: str | None) -> None:
        """Save which run this is; a later process that cannot read the note begins a new run."""
        experiment = self._begin["experiment"]
        note = {"tracking_uri": self.tracking_uri, "experiment": experiment, "key": self._key, "run_id": run_id}
        if self._begin["tags"].get(STAGE) == RECIPE:
            note[STAGE] = RECIPE
        new = self._run_file.with_name(f"{NOTE}.new")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(note), encoding="utf-8")
            new.replace(self._run_file)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a step."""
        values = {_metric_name(name): float(value) for name, value in metrics.items() if not isinstance(value, str)}
        if values:
            self._put("metrics", values=values, step=step or 0)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None, *_: Any, **__: Any) -> None:
        """Log parameters; nested parameters get names like `optimizer/lr`."""
        flat = _flatten_dict(_convert_params(params))
        if flat:
            self._put("params", values={_metric_name(name): str(value)[:_MAX_VALUE] for name, value in flat.items()})

    @rank_zero_only
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put("tags", values=dict(tags))

    @rank_zero_only
    def log_inputs(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Log data sets as inputs of the run; see `callbacks.mlflow.inputs`."""
        if datasets:
            self._put("inputs", values=list(datasets))

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Send a file, or a folder with all that is in it; it is read in the background, so it must stay there.

        Args:
            path: The file or folder.
            artifact_path: The folder among the run's artifacts; None is their root.
        """
        self._put("artifact", path=str(Path(path).resolve()), to=artifact_path)

    @rank_zero_only
    def log_table(self, path: str | Path) -> None:
        """Send a JSON file of `{"columns": .., "data": ..}`, again whenever it has changed; MLflow shows a table."""
        self.log_artifact(path)
        self.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": Path(path).name, "type": "table"}])})

    @rank_zero_only
    def log_traces(self, folder: str | Path, step: int) -> None:
        """Send the trajectories of `<folder>/trajectories.jsonl` as traces; they are read in the background.

        Args:
            folder: Folder that `callbacks.trajectories.write_trajectories` wrote; it must stay there.
            step: The optimizer step.
        """
        self._put("traces", path=str(Path(folder).resolve()), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Mark the run as finished, failed or killed and send the rest, for `flush_s` seconds at most."""
        if self._sender is not None:
            ended = "FINISHED" if status != "failed" else "FAILED"
            # Lightning says "failed" for Ctrl-C and SIGTERM too, while it handles them.
            if isinstance(sys.exception(), KeyboardInterrupt | SIGTERMException):
                ended = "KILLED"
            self._put("end", status=ended)
            self._sender.flush(self.flush_s)

    def _put(self, kind: str, **fields: Any) -> None:
        with self._lock:
            if self._has_lost:
                return
            try:
                sender = self._start() if self._sender is None else self._sender
                sender.put({"run": self._key, "kind": kind, "time_ms": int(1000 * time.time()), **fields})
            except OSError as error:  # no reason to stop training either
                self._has_lost = True
                _warn(f"MLflow: cannot write to {self.folder} ({error}); from here on nothing is logged to MLflow.")

    def _start(self) -> Sender:
        """Open the outbox and start the thread, once there is something to log; only the first process logs."""
        for name, value in _HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        location = self._artifact_location
        database = sqlite_path(self.tracking_uri)
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            location = location or (database.parent.resolve() / "mlartifacts").as_uri()
        self._sender = Sender(self.tracking_uri, location, Outbox(self.folder, "mlflow_unsent"), self._key)
        if self._known_run_id is not None:
            self._sender.run_ids[self._key] = self._known_run_id
        self._sender.on_run = self._note_run
        self._note_run(self._known_run_id)
        begin = {"run": self._key, "kind": "begin", "time_ms": int(1000 * time.time()), **self._begin}
        self._sender.put(begin, is_lasting=True)
        self._sender.start()
        return self._sender


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w/. :-]", "_", name, flags=re.ASCII)[:250]


def _warn(message: str) -> None:
    from callbacks.mlflow.sender import log

    log.warning(message)
