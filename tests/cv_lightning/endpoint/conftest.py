"""A fake server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cv_lightning.endpoint.fake_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
