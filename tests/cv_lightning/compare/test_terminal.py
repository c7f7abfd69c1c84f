"""The comparison in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cv_lightning.compare.comparison import compare
from cv_lightning.compare.terminal import show
from tests.cv_lightning.compare.made_runs import a_group, answer


@pytest.mark.parametrize("width", [60, 100, 200])
def test_tables_fit_into_the_terminal_and_name_the_test(width: int) -> None:
    name = "a_rather_long_name_of_a_stage"
    groups = a_group("a", [answer("1", 1.0)]), a_group(name, [answer("1", 0.0)])
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(compare([*groups[0].runs, *groups[1].runs]), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= width
    assert "McNemar" in printed
    assert ("1 : 0" in printed) == (width < 160)
