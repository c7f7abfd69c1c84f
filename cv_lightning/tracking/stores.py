"""Finds runs in MLflow by id or experiment, and downloads their files."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError, CVLightningError, DataError
from cv_lightning.tracking.uri import check_uri, sqlite_path

#: Folder that is searched for databases if no store is named.
_DATABASES = "runs"

#: MLflow's settings, unless the user sets them: short waits, because a user waits for the answer, and no extra output.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_URI_VARIABLE = "MLFLOW_TRACKING_URI"

#: Maximum number of experiments, or runs of an experiment, that MLflow returns at once.
_MOST = 50_000


class Stores:
    """The stores that are searched for runs.

    Args:
        tracking_uri: The store to search; None: `MLFLOW_TRACKING_URI` if it is set, else every mlflow.db below `runs`.

    Raises:
        ConfigError: MLflow cannot use the URI, or the database does not exist.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        named = tracking_uri or os.environ.get(_URI_VARIABLE)
        if named:
            check_uri(named)
            database = sqlite_path(named)
            if database is not None and not database.is_file():
                raise ConfigError(f"tracking_uri: there is no file {str(database)!r}.")
        found = [f"sqlite:///{path}" for path in sorted(Path(_DATABASES).glob("**/mlflow.db"))]
        self.uris = [named] if named else found
        self._is_named = bool(named)
        self._clients: dict[str, Any] = {}

    def find(self, run_id: str) -> StoredRun:
        """The run with an id.

        Raises:
            DataError: The run is in none of the stores, or the named store cannot be read.
        """
        for uri in self.uris:
            run = self._read(uri, lambda client: _run_of(client, run_id))
            if run is not None:
                return StoredRun(uri, self._clients[uri], run)
        raise DataError(f"There is no run {run_id} in {self._names()}. {self._remedy()}")

    def of_experiment(self, name: str) -> list[StoredRun]:
        """All runs of an experiment that are not deleted, oldest first.

        Raises:
            ConfigError: No store has an experiment of that name.
            DataError: The experiment has no run, or the named store cannot be read.
        """
        known: set[str] = set()
        found: list[StoredRun] = []
        for uri in self.uris:
            names, runs = self._read(uri, lambda client: _experiment_of(client, name)) or ([], [])
            known |= set(names)
            found += [StoredRun(uri, self._clients[uri], run) for run in runs]
        if name not in known:
            others = did_you_mean(name, known - {"Default"})
            raise ConfigError(f"--experiment: there is no {name!r} in {self._names()}. {others or self._remedy()}")
        if not found:
            raise DataError(f"--experiment: {name!r} has no run in {self._names()}.")
        return found

    def _read(self, uri: str, read: Callable[[Any], Any]) -> Any:
        """The result of `read`; None and a warning if the store cannot be read and the user did not name it."""
        try:
            with one_line_errors(uri):
                if uri not in self._clients:
                    self._clients[uri] = connect(uri)
                return read(self._clients[uri])
        except DataError as error:
            if self._is_named:
                raise
            print(f"warning: {error}", file=sys.stderr)
            return None

    def _names(self) -> str:
        names = [str(sqlite_path(uri) or uri) for uri in self.uris]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "any store"

    def _remedy(self) -> str:
        remedy = "Name the store with --tracking-uri, e.g. sqlite:///runs/tiny/mlflow.db or http://host:5000"
        return remedy + (f"; there is no {_DATABASES}/**/mlflow.db here." if not self.uris else ".")


class StoredRun:
    """A run in a store.

    Attributes:
        id: MLflow's id of the run.
        name: Its readable name.
        params: Its parameters.
        tags: Its tags.
    """

    def __init__(self, uri: str, client: Any, run: Any) -> None:
        self.id = str(run.info.run_id)
        self.name = str(run.info.run_name or "run")
        self.params: dict[str, str] = run.data.params
        self.tags: dict[str, str] = run.data.tags
        self._uri, self._client, self._run = uri, client, run

    @property
    def title(self) -> str:
        """The run's name and the beginning of its id."""
        return f"{self.name} {self.id[:8]}"

    def download(self, names: re.Pattern[str], folder: Path) -> None:
        """Download the run's top-level artifacts whose names match.

        Raises:
            DataError: The artifacts cannot be read.
        """
        with one_line_errors(self._uri, f"run {self.id}: its artifacts"):
            for item in self._client.list_artifacts(self.id):
                if not item.is_dir and names.fullmatch(item.path):
                    self._client.download_artifacts(self.id, item.path, str(folder))

    def curves(self) -> dict[str, list[tuple[float, float, float]]]:
        """Metric -> (step, minutes since the run began, value), finite values only.

        Raises:
            DataError: The store does not answer.
        """
        with one_line_errors(self._uri):
            return {name: self._curve(name) for name in self._run.data.metrics}

    def _curve(self, name: str) -> list[tuple[float, float, float]]:
        began = self._run.info.start_time or 0
        points = sorted(self._client.get_metric_history(self.id, name), key=lambda point: point.timestamp)
        # If a step was logged twice, the later point counts.
        at_step = {
            float(point.step): ((point.timestamp - began) / 60_000, float(point.value))
            for point in points
            if math.isfinite(point.value)
        }
        return [(step, minutes, value) for step, (minutes, value) in sorted(at_step.items())]

    @contextmanager
    def trajectories(self) -> Iterator[Path]:
        """The folder of the run's trajectories: a temporary copy of its artifacts, or the run's own folder.

        Raises:
            DataError: The run recorded no trajectories, or the store does not answer.
        """
        with TemporaryDirectory(prefix="cv_lightning_") as folder:
            with one_line_errors(self._uri):
                is_there = any(item.path == "trajectories" for item in self._client.list_artifacts(self.id))
                fetched = self._client.download_artifacts(self.id, "trajectories", folder) if is_there else None
            own = Path(self.params.get("trainer/default_root_dir", "")) / "trajectories"
            if fetched is None and not own.is_dir():
                raise DataError(f"Run {self.id} recorded no trajectories. Add the callback callbacks.Trajectories.")
            yield Path(fetched) if fetched is not None else own


def connect(uri: str) -> Any:
    """MLflow's client for a store; mlflow is imported here because the import takes seconds."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


@contextmanager
def one_line_errors(uri: str, part: str = "", done: str = "read") -> Iterator[None]:
    """Turn any error of MLflow into a one-line `DataError`: `part` of the store cannot be `done`."""
    try:
        yield
    except CVLightningError:
        raise
    except Exception as error:  # MLflow passes on the errors of its databases
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "Check that the server is up, or that the file is a database of MLflow."
        raise DataError(f"MLflow: {part or uri} cannot be {done} ({cause}). {remedy}") from error


def _run_of(client: Any, run_id: str) -> Any:
    """The run with an id; None if the store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return None
        raise


def _experiment_of(client: Any, name: str) -> tuple[list[str], list[Any]]:
    """Names of all experiments, and the runs of the experiment `name`, oldest first."""
    experiments = client.search_experiments(max_results=_MOST)
    ids = [experiment.experiment_id for experiment in experiments if experiment.name == name]
    runs = client.search_runs(ids, max_results=_MOST, order_by=["attributes.start_time ASC"]) if ids else []
    return [experiment.name for experiment in experiments], runs
