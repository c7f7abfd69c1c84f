"""Runs `data check` over rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.__main__ import main
from tests.cv_lightning.data.checked import Check


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")

    def run(rows: list[Any], *options: str) -> tuple[int, str]:
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        status = main(["data", "check", str(path), *options])
        return status, capsys.readouterr().out

    return run
