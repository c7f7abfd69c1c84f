"""The fake stage and a recipe of such stages, in an empty working directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cv_lightning.cli.fake_recipe import FAKES


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The fake stage's config, for a test to break; the working directory is an empty folder."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.chdir(tmp_path)
    return yaml.safe_load((FAKES / "stage.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A recipe of three fake stages below an empty working directory."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipe"
    folder.mkdir()
    text = (FAKES / "stage.yaml").read_text(encoding="utf-8")
    shutil.copy(FAKES / "recipe.yaml", folder)
    for name, file in (("base", "stage.yaml"), ("sft", "sft.yaml"), ("rl", "rl.yaml")):
        own = text.replace("${run_folder}/base", f"${{run_folder}}/{name}").replace("name: base", f"name: {name}")
        (folder / file).write_text(own, encoding="utf-8")
    return folder
