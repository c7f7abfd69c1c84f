"""A build of 20 rows: its config, its command, and the files that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cv_lightning.__main__ import main

SOURCES = [
    {"class_path": "cv_lightning.data.PlateWorld", "init_args": {"seed": 2}},
    {"class_path": "cv_lightning.data.FamilyWorld", "init_args": {"seed": 2}},
]


def config(folder: Path, **changes: Any) -> Path:
    shares = {"single_tool": 2, "several_tools": 2, "several_crops": 1, "error_handling": 2, "no_tool": 1}
    if changes.get("kind") == "rl":
        del shares["error_handling"]
    values = {"out": str(folder / "out"), "n": 20, "workers": 1}
    values |= {"planner": {"seed": 3, "sources": SOURCES, "shares": shares}} | changes
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def build(folder: Path, *options: str, **changes: Any) -> int:
    return main(["data", "build", "--config", str(config(folder, **changes)), *options])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/episodes.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a build except its journal and its report, which contain times."""
    out = folder / "out"
    kept = [path for path in out.rglob("*") if path.is_file() and path.name not in ("build.journal", "yield.json")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}
