"""Write the fake stage's config, and read the one-line error of a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_lightning.__main__ import main


def write(config: dict[str, Any], path: str = "stage.yaml") -> str:
    Path(path).write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one-line error of a wrong command line."""
    assert main(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "Namespace" not in lines[0]
    assert "NestedArg" not in lines[0]
    return lines[0]
