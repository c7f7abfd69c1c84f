"""Settings that decide a build, and invalid settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cv_lightning.construction.settings import deciding
from tests.cv_lightning.construction.builds import SOURCES, build, rows


def test_a_source_whose_rows_changed_is_another_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (80, 60), "white").save(tmp_path / "a.png")

    def write(answer: str) -> None:
        lines = [{"id": str(n), "question": "What?", "images": ["a.png"], "answer": answer} for n in range(4)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    source = {
        "class_path": "cv_lightning.data.FileSource",
        "init_args": {"train": str(tmp_path / "rows.jsonl")},
    }
    planner = {"seed": 3, "sources": [source], "shares": {"no_tool": 1}}
    write("old")
    assert build(tmp_path, planner=planner, n=2) == 0
    assert build(tmp_path, planner=planner, n=3) == 0
    write("new")
    assert build(tmp_path, planner=planner, n=4) == 2
    assert "other settings (source_rows differ)" in capsys.readouterr().err
    assert {row["conversations"][-1]["value"].count("old") for row in rows(tmp_path)} == {1}


def test_how_a_server_is_reached_decides_nothing() -> None:
    def settings(**endpoint: Any) -> Any:
        teacher = {"class_path": "T", "init_args": {"endpoint": endpoint, "temperature": 0.7}}
        return deciding({"n": 3, "kind": "sft", "teacher": teacher})

    assert settings(url="http://a", model="m", timeout_s=1) == settings(url="http://b", model="m", timeout_s=9)
    assert settings(url="http://a", model="m") != settings(url="http://a", model="other")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "give_up_after: expected at least 1, got 0"),
        ({"kind": "both"}, "kind"),
        ({"teachers": 2}, "teachers"),
        ({"planner": {"sources": [], "shares": {"no_tool": 1}}}, "at least one source"),
        ({"planner": {"sources": SOURCES[:1], "shares": {"several_crops": 1}}}, "Set its share to 0"),
        ({"kind": "rl", "planner": {"sources": SOURCES, "shares": {"error_handling": 1}}}, "error_handling is a kind"),
    ],
)
def test_configs_that_cannot_be(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path, **changes) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
