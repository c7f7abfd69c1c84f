"""What the tests of servers are given."""

from __future__ import annotations

from tests.modules.samplers.vllm.conftest import server as engine

__all__ = ["engine"]
