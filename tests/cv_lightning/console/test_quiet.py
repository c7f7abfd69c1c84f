"""`--quiet` anywhere on a command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cv_lightning.console.quiet import VARIABLE, is_quiet, take_flag

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_variable_decides(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert is_quiet() is expected


def test_without_the_flag_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert take_flag(["fit", "--quietly", "quiet"]) == ["fit", "--quietly", "quiet"]
    assert not is_quiet()


def test_the_flag_is_taken_wherever_it_is_and_processes_that_are_started_are_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # monkeypatch undoes the change by the flag after the test
    assert take_flag(["--quiet", "fit", "--config", "a.yaml", "--quiet"]) == ["fit", "--config", "a.yaml"]
    code = "from cv_lightning.console.quiet import is_quiet; print(is_quiet())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
