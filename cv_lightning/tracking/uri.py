"""Checks MLflow's names of stores and runs before they are used."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from cv_lightning.errors import ConfigError

#: URI schemes of the stores that MLflow can write to; variants such as `sqlite+pysqlite` count as `sqlite`.
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def sqlite_path(uri: str) -> Path | None:
    """The file of `sqlite:///relative/path` or `sqlite:////absolute/path`; None for other URIs."""
    scheme, separator, rest = uri.partition(":///")
    return Path(rest) if separator and scheme.partition("+")[0] == "sqlite" else None


def check_uri(uri: str) -> None:
    """Raise `ConfigError` if MLflow cannot use the URI: before training, not later in the background."""
    try:
        is_server = urlsplit(uri).hostname is not None and urlsplit(uri).port != 0
    except ValueError:  # a port that is not a number, or an open bracket in the host
        is_server = False
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in ("http", "https") and not is_server:
        raise ConfigError(f"tracking_uri: expected a server, got {uri!r}. Write it as http://host:5000.")
    if scheme == "sqlite" and not sqlite_path(uri):
        raise ConfigError(
            f"tracking_uri: expected a file, got {uri!r}. Write it with three slashes: 'sqlite:///runs/mlflow.db' is "
            "below the working directory, 'sqlite:////data/mlflow.db' is below /."
        )
    if scheme not in _SCHEMES or (":" not in uri and uri != "databricks"):
        remedy = "'sqlite:///runs/mlflow.db' for a file, 'http://host:5000' for a server"
        raise ConfigError(
            f"tracking_uri: MLflow cannot use {uri!r}. Use {remedy}; other databases: {', '.join(_SCHEMES[3:])}."
        )


def is_run_id(name: str) -> bool:
    """Whether a name looks like MLflow's id of a run: 32 hexadecimal digits."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None
