"""Runs in MLflow: found by id or experiment, read or fetched."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cv_lightning.compare.run import Points, Run, flatten, flatten_facts, minutes_of, read_folder
from cv_lightning.compare.tracking_uri import check_uri, sqlite_path
from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError, CVLightningError, DataError

#: The files of a run that say what it was made with and what it answered.
_FILES = re.compile(r"(config|run)_\w+\.(yaml|json)|results\.json|answers_\d+\.jsonl")

#: Where databases of runs are looked for if nobody names one.
_DATABASES = "runs"

#: MLflow's settings for HTTP, where the user has not set them: somebody waits.
_HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

_URI_VARIABLE = "MLFLOW_TRACKING_URI"


class Stores:
    """The stores in which runs are looked for.

    Args:
        tracking_uri: The one to look in; None: `MLFLOW_TRACKING_URI`, else every mlflow.db below `runs`.

    Raises:
        ConfigError: A URI that MLflow cannot use, or a database that is not there.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        named = tracking_uri or os.environ.get(_URI_VARIABLE)
        if named:
            check_uri(named)
            database = sqlite_path(named)
            if database is not None and not database.is_file():
                raise ConfigError(f"tracking_uri: there is no file {str(database)!r}.")
            self.uris = [named]
            self._is_named = True
        else:
            found = sorted(Path(_DATABASES).glob("**/mlflow.db")) if Path(_DATABASES).is_dir() else []
            self.uris = [f"sqlite:///{path}" for path in found]
            self._is_named = False
        self._clients: dict[str, Any] = {}

    def find(self, run_id: str) -> StoredRun:
        """The run of an id.

        Raises:
            DataError: It is in none of the stores, or no store can be read.
        """
        for uri in self.uris:
            run = self._read(uri, partial(_run_of, run_id))
            if run is not None:
                return StoredRun(uri, self._clients[uri], run)
        raise DataError(f"There is no run {run_id} in {self._names()}. {self._remedy()}")

    def of_experiment(self, name: str) -> list[StoredRun]:
        """All runs of an experiment that are not deleted, oldest first.

        Raises:
            ConfigError: No store has an experiment of that name.
            DataError: It has no run, or no store can be read.
        """
        known: set[str] = set()
        found: list[StoredRun] = []
        for uri in self.uris:
            names, runs = self._read(uri, partial(_experiment_of, name)) or ([], [])
            known |= set(names)
            found += [StoredRun(uri, self._clients[uri], run) for run in runs]
        if name not in known:
            others = did_you_mean(name, known - {"Default"})
            raise ConfigError(f"--experiment: there is no {name!r} in {self._names()}. {others or self._remedy()}")
        if not found:
            raise DataError(f"--experiment: {name!r} has no run in {self._names()}.")
        return found

    def _read(self, uri: str, read: Callable[[Any], Any]) -> Any:
        """What is read from a store; None of one that nobody named and that cannot be read, which is warned of."""
        try:
            with _told(uri):
                if uri not in self._clients:
                    self._clients[uri] = _client(uri)
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
        return remedy + (f"; no {_DATABASES}/**/mlflow.db is here." if not self.uris else ".")


class StoredRun:
    """A run of a store.

    Attributes:
        id: MLflow's name of it.
        title: Its name for people.
    """

    def __init__(self, uri: str, client: Any, run: Any) -> None:
        self.id = str(run.info.run_id)
        self.title = f"{run.info.run_name or 'run'} {self.id[:8]}"
        self._uri, self._client, self._run = uri, client, run

    def read(self) -> Run:
        """The run as it is compared.

        Raises:
            DataError: The store does not answer.
        """
        faults: list[str] = []
        with TemporaryDirectory(prefix="cv_lightning_") as folder:
            with _told(self._uri):
                self._fetch_files(Path(folder), faults)
                timed = {name: self._curve(name) for name in self._run.data.metrics}
            run = read_folder(Path(folder))
        if not run.config:
            run.config = flatten({key.replace("/", "."): value for key, value in self._run.data.params.items()})
            run.name = self._run.info.run_name or self.id[:8]
        run.source, run.faults = self.id, [fault.replace(str(Path(folder)), self.id) for fault in run.faults] + faults
        curves = {name: [(step, value) for step, _, value in points] for name, points in timed.items()}
        run.curves = {**run.curves, **curves}
        run.minutes = minutes_of(curves) or _minutes_by_the_clock(timed)
        run.facts = run.facts or self._facts()
        return run

    @contextmanager
    def trajectories(self) -> Iterator[Path]:
        """The folder of the run's trajectories: its artifacts, fetched for as long as it is used, or its own folder.

        Raises:
            DataError: It recorded none, or the store does not answer.
        """
        with TemporaryDirectory(prefix="cv_lightning_") as folder:
            with _told(self._uri):
                is_there = any(item.path == "trajectories" for item in self._client.list_artifacts(self.id))
                fetched = self._client.download_artifacts(self.id, "trajectories", folder) if is_there else None
            own = Path(self._run.data.params.get("trainer/default_root_dir", "")) / "trajectories"
            if fetched is None and not own.is_dir():
                raise DataError(f"Run {self.id}: recorded no trajectories. The callback callbacks.Trajectories does.")
            yield Path(fetched) if fetched is not None else own

    def _fetch_files(self, folder: Path, faults: list[str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            for item in self._client.list_artifacts(self.id):
                if not item.is_dir and _FILES.fullmatch(item.path):
                    self._client.download_artifacts(self.id, item.path, str(folder))
        except (OSError, MlflowException) as error:  # metrics and parameters lie elsewhere
            faults.append(f"run {self.id}: its artifacts cannot be read ({_short(error)})")

    def _curve(self, name: str) -> list[tuple[float, float, float]]:
        """(step, minutes since the run began, value); of a step that was logged twice the later."""
        began = self._run.info.start_time or 0
        at_step = {}
        for point in sorted(self._client.get_metric_history(self.id, name), key=lambda point: point.timestamp):
            if point.value == point.value and abs(point.value) != float("inf"):
                at_step[float(point.step)] = ((point.timestamp - began) / 60_000, float(point.value))
        return [(step, minutes, value) for step, (minutes, value) in sorted(at_step.items())]

    def _facts(self) -> dict[str, Any]:
        tags = self._run.data.tags
        code = {"commit": tags.get("code.commit") or tags.get("mlflow.source.git.commit")}
        return flatten_facts({"code": code, "data": {"fingerprint": tags.get("data.fingerprint")}})


def _minutes_by_the_clock(curves: Mapping[str, list[tuple[float, float, float]]]) -> Points:
    """When each step was logged, from the curve with the most of them."""
    longest = max(curves.values(), key=len, default=[])
    return [(step, minutes) for step, minutes, _ in longest]


def _client(uri: str) -> Any:
    for name, value in _HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Say in one line what a store did not do."""
    try:
        yield
    except CVLightningError:
        raise
    except Exception as error:  # MLflow hands on what its databases raise
        remedy = "Is the server up, and the file a database of MLflow?"
        raise DataError(f"MLflow: {uri} cannot be read ({_short(error)}). {remedy}") from error


def _run_of(run_id: str, client: Any) -> Any:
    """The run of an id; None where the store has none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return None
        raise


def _experiment_of(name: str, client: Any) -> tuple[list[str], list[Any]]:
    """Names of all experiments, and the runs of the one of a name, oldest first."""
    experiments = list(_pages(client.search_experiments))
    ids = [experiment.experiment_id for experiment in experiments if experiment.name == name]
    search = partial(client.search_runs, ids, order_by=["attributes.start_time ASC"])
    return [experiment.name for experiment in experiments], list(_pages(search)) if ids else []


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
