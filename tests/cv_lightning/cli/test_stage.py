"""A stage that lacks only its test is only tested, and its result must have an accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cv_lightning.cli.stage import stage_result
from cv_lightning.errors import ConfigError
from tests.cv_lightning.cli.fake_recipe import report, reproduce


def test_stage_cut_off_before_its_test_is_only_tested(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--stages", "base") == 0
    path = Path("runs/fake/base/stage.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "trained", "result": {}}))
    checkpoints = {p.name: p.stat().st_mtime_ns for p in Path("runs/fake/base/checkpoints").iterdir()}
    assert reproduce("--stages", "base") == 0
    assert "base: already trained; testing" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in Path("runs/fake/base/checkpoints").iterdir()} == checkpoints
    assert report()["stages"]["base"]["mean"] == 0.5


def test_test_without_accuracy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Stage 'rl'.*no test/accuracy.*train/loss"):
        stage_result("rl", {"train/loss": 1.0}, 3.0)
