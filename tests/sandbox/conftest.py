"""Executors that run all code confined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Limits, ToolExecutor
from tests.sandbox.machine import need


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    need()
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=10)) as made:
        yield made


@pytest.fixture(scope="module")
def quick() -> Iterator[ToolExecutor]:
    """An executor that keeps a worker for an episode: no fork between calls."""
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10), fresh="episode") as made:
        yield made
