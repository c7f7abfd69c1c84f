"""Defaults of a solver."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cv_lightning.errors import ConfigError
from cv_lightning.solver import Solver
from cv_lightning.types import Sample, Trajectory


class Silent(Solver):
    def fingerprint(self) -> str:
        return "silent"

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        return [None for _ in samples]


def test_a_solver_has_tools_and_costs_nothing_unless_it_says_so() -> None:
    with pytest.raises(ConfigError, match=r"Silent cannot be asked without tools: leave compare_without_tools off"):
        Silent().without_tools()
    assert Silent().usage() == {}
