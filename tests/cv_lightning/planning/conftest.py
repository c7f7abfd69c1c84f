"""Plans of the small policies that the tests train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cv_lightning.planning.command import Parsed, measured
from cv_lightning.planning.memory import memory
from tests.cv_lightning.planning.works import WORK
from tests.modules.helpers import SIZE


@pytest.fixture
def planned() -> Callable[[dict[str, Any], str], dict[str, int]]:
    """Bytes by part of a small policy with these arguments, counted on the meta device as in the command."""

    def parts(policy: dict[str, Any], optimizer: str) -> dict[str, int]:
        arguments = {"source": None, "build": {"family": "qwen2_5_vl", **SIZE}, "system_prompt": "Read."} | policy
        parsed = Parsed({"optimizer": {"name": optimizer, "lr": 1e-3}}, arguments, {}, {})
        return memory(measured(parsed, [])[0], WORK).parts

    return parts
