"""The written episodes load back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cv_lightning.__main__ import main
from cv_lightning.construction.checks import Checks
from cv_lightning.construction.command import make_parser
from cv_lightning.construction.episode import construct
from cv_lightning.construction.settings import Build
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.data.sources import FileSource, RecordedEpisodes
from cv_lightning.types import Trajectory
from sandbox import ToolExecutor
from tests.cv_lightning.construction.builds import build, rows


def content(episode: Trajectory) -> Any:
    sample = episode.sample
    turns = [
        (t.text, t.reply, t.is_trained, (t.observation.text if t.observation else "").strip()) for t in episode.turns
    ]
    results = [
        t.observation.image for t in episode.turns if t.observation is not None and t.observation.image is not None
    ]
    pixels = [(image.size, image.tobytes()) for image in (*sample.images, *results)]
    return sample.question, sample.answer, sample.transforms, sample.box, sample.family, sample.rule, turns, pixels


def test_episodes_load_back_equal(built: Path) -> None:
    parser = make_parser()
    parsed = parser.instantiate_classes(parser.parse_args(["--config", str(built / "build.yaml")]))
    planner = Build(**{name: value for name, value in vars(parsed).items() if name != "config"}).planner
    recorded = RecordedEpisodes(str(built / "out/episodes.jsonl"), strict=True)
    with ToolExecutor() as executor:
        expected = [construct(planner.plan(i), OracleTeacher(), executor, Checks()).trajectory for i in range(20)]
        loaded = [recorded.episode("train", index, executor) for index in range(20)]
    by_id = {episode.sample.id: content(episode) for episode in loaded if episode is not None}
    assert by_id == {f"built-3-{index}": content(episode) for index, episode in enumerate(expected)}
    kinds = {row["provenance"]["kind"] for row in rows(built)}
    assert kinds == {"single_tool", "several_tools", "several_crops", "error_handling", "no_tool"}


def test_data_check_finds_no_fault(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(built / "out")]) == 0
    said = capsys.readouterr().out
    assert "CodeVision-SFT (ShareGPT) (codevision_sft), 20 rows" in said
    assert "faults: 0" in said
    assert "notices" not in said


def test_provenance_says_where_a_row_is_from(built: Path) -> None:
    for index, row in enumerate(rows(built)):
        told = row["provenance"]
        assert (told["seed"], told["index"], told["transforms"]) == (3, index, row["transforms"])
        assert told["teacher"]["name"] == "oracle"
        assert set(told["versions"]) >= {"pillow", "numpy"}
        assert len(told["sha256"]) == 64
        assert len(row["trained"]) == sum(turn["from"] == "gpt" for turn in row["conversations"])
        assert all((built / "out" / name).is_file() for name in row["images"])
    assert len({row["provenance"]["sha256"] for row in rows(built)}) == 20


def test_questions_load_back_equal(tmp_path: Path) -> None:
    assert build(tmp_path, kind="rl") == 0
    path = tmp_path / "out/questions.parquet"
    assert main(["data", "check", str(path)]) == 0
    parser = make_parser()
    parsed = parser.instantiate_classes(parser.parse_args(["--config", str(tmp_path / "build.yaml")]))
    source = FileSource(test=str(path), strict=True)
    assert source.size("test") == 20
    for index in range(20):
        expected, loaded = parsed.planner.plan(index).sample, source.sample("test", index)
        assert loaded.id == f"cv_lightning-train-{index}"
        for name in ("question", "answer", "transforms", "box", "family", "alternatives"):
            assert getattr(loaded, name) == getattr(expected, name), name
        assert [image.tobytes() for image in loaded.images] == [image.tobytes() for image in expected.images]
    (row,) = pq.read_table(path).slice(0, 1).to_pylist()
    assert row["prompt"][0]["content"].startswith("<image>\n")
    assert json.loads(row["provenance"])["teacher"]["name"] == "oracle"


def test_a_built_file_is_a_source_of_another_build(built: Path, tmp_path: Path) -> None:
    source = {
        "class_path": "cv_lightning.data.FileSource",
        "init_args": {"train": str(built / "out/episodes.jsonl")},
    }
    planner = {"sources": [source], "shares": {"single_tool": 1, "several_tools": 1}}
    assert build(tmp_path, n=8, planner=planner) == 0
    assert len(rows(tmp_path)) == 8
