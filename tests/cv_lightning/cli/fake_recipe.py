"""Run and change a recipe of fake stages, and read its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cv_lightning.__main__ import main

FAKES = Path(__file__).parent / "fakes"


RECIPE = "recipe/recipe.yaml"


def reproduce(*arguments: str) -> int:
    return main(["reproduce", "--recipe", RECIPE, *arguments])


def report(folder: str = "runs/fake") -> dict[str, Any]:
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
