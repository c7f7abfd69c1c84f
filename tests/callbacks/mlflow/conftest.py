"""The store for tests of the logger and of its sender."""

from __future__ import annotations

import pytest

from callbacks.mlflow import sender as mlflow_sender
from callbacks.mlflow.sender import Sender
from tests.callbacks.mlflow.fake_store import STORE, Store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    real = Sender._connected
    # Threads of earlier tests still try to reach their servers.
    monkeypatch.setattr(Sender, "_connected", lambda self: store if self.tracking_uri == STORE else real(self))
    monkeypatch.setattr(mlflow_sender, "RETRY_S", (0.01, 0.02))
    return store
