"""Names of stores and runs, by hand."""

from __future__ import annotations

from pathlib import Path

from cv_lightning.errors import ConfigError
from cv_lightning.tracking.uri import check_uri, is_run_id, sqlite_path


def is_refused(uri: str) -> bool:
    try:
        check_uri(uri)
    except ConfigError:
        return True
    return False


def test_addresses_that_mlflow_can_use() -> None:
    usable = ["http://host:5000/path", "https://host", "postgresql+psycopg2://u:p@host/db", "databricks", "sqlite:///a"]
    others = ["http://", "http://host:port", "htp://host", "sqlite", "sqlite://a", "databricks2", "mysql", ""]
    assert [uri for uri in (*usable, *others) if is_refused(uri)] == others


def test_sqlite_paths() -> None:
    assert sqlite_path("sqlite:///runs/mlflow.db") == Path("runs/mlflow.db")
    assert sqlite_path("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")
    assert sqlite_path("http://host") is None


def test_run_ids_are_32_hexadecimal_digits() -> None:
    assert is_run_id("8bcfedf8bcfa4e47afae849f5fd2ebd1")
    assert not any(map(is_run_id, ["8bcfedf8", "8BCFEDF8BCFA4E47AFAE849F5FD2EBD1", "z" * 32, "0" * 33]))
