"""What tests of the engine, and of what asks one, are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.modules.samplers.vllm.fake import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake
