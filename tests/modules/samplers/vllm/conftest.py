"""Fixtures for tests of the engine and of its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.samplers.vllm.launch import Launch
from tests.modules.helpers import small_policy
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import fake_environment


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    small_policy().export(tmp_path / "engine" / "model")
    return Launch(str(fake_environment(tmp_path / "environment")), str(tmp_path / "engine"), start_s=60.0, restarts=2)
