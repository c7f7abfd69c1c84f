"""Fixtures for the tests of servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cv_lightning.serving.web_server import ServerLimits
from modules.policy.policy import Policy
from tests.cv_lightning.serving.clients import Client
from tests.modules.helpers import small_policy
from tests.modules.samplers.vllm.conftest import server as engine
from tests.modules.samplers.vllm.helpers import fake_environment

__all__ = ["engine"]


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(limits=ServerLimits(request_megabytes=1, read_s=0.5))
    yield client
    client.close()


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy()


@pytest.fixture
def here(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a policy, and an environment with the fake vLLM."""
    policy.export(tmp_path / "policy")
    fake_environment(tmp_path / "vllm")
    monkeypatch.chdir(tmp_path)
    return tmp_path
