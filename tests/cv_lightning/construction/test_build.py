"""The command: what it writes loads back equal, and a build that was cut off ends as one that was not."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from cv_lightning.__main__ import main
from cv_lightning.construction.checks import Checks
from cv_lightning.construction.command import make_parser
from cv_lightning.construction.episode import construct
from cv_lightning.construction.settings import Build, deciding
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.data.sources import FileSource, RecordedEpisodes
from cv_lightning.types import Trajectory
from sandbox import ToolExecutor

ROOT = Path(__file__).parents[3]
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
    """Everything that a build leaves but its journal and report, which hold times."""
    out = folder / "out"
    kept = [path for path in out.rglob("*") if path.is_file() and path.name not in ("build.journal", "yield.json")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    assert build(folder) == 0
    return folder


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


def test_report_counts_what_is_there(built: Path) -> None:
    report = json.loads((built / "out/yield.json").read_text())
    assert (report["wanted"], report["kept"], report["given_up"]) == (20, 20, 0)
    assert sum(kind["kept"] for kind in report["kinds"].values()) == 20
    assert report["run"]["peak_memory_mb"] > 10


def test_a_second_run_has_nothing_to_do_and_more_can_be_built(built: Path, tmp_path: Path) -> None:
    before = files(built)
    assert main(["data", "build", "--config", str(built / "build.yaml"), "--n=12"]) == 0
    assert len(rows(built)) == 12
    assert main(["data", "build", "--config", str(built / "build.yaml")]) == 0
    assert json.loads((built / "out/yield.json").read_text())["run"]["rows"] == 0
    assert files(built) == before


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uncut")
    assert build(folder, "--n=40", workers=2) == 0
    return files(folder)


def test_processes_build_what_one_does(built: Path, uncut: dict[str, bytes]) -> None:
    shas = [json.loads(line)["provenance"]["sha256"] for line in uncut["episodes.jsonl"].splitlines()]
    assert shas[:20] == [row["provenance"]["sha256"] for row in rows(built)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_was_cut_off_ends_as_an_uncut_one(
    how: signal.Signals, uncut: dict[str, bytes], tmp_path: Path
) -> None:
    cut = tmp_path
    config(cut, n=40, workers=2)
    command = [sys.executable, "-m", "cv_lightning", "data", "build", "--config", str(cut / "build.yaml")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    journal = cut / "out/build.journal"
    deadline = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 8) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues" in said
        assert 7 <= len(rows(cut)) < 40
    else:
        with journal.open("ab") as file:
            file.write(b'{"index": 39, "kin')  # as a line looks that was being written
        (cut / "out/images/0000/39_0.77.part").write_bytes(b"half an image")
    n_before = journal.read_bytes().count(b"\n") - 1
    assert 0 < n_before < 40
    assert main([*command[3:], "--workers=1"]) == 0
    assert json.loads((cut / "out/yield.json").read_text())["run"]["rows"] == 40 - n_before, "nothing is done twice"
    assert files(cut) == uncut


def test_a_folder_holds_one_build(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(built)
    assert main(["data", "build", "--config", str(built / "build.yaml"), "--planner.seed=9"]) == 2
    assert "holds a build with other settings (planner.seed differ)" in capsys.readouterr().err
    assert files(built) == before


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


def test_a_damaged_line_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(tmp_path, n=6) == 0
    before, journal = files(tmp_path), tmp_path / "out/build.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[3:], b'{"index": 1}\n', b"[1]\n"]))
    with pytest.warns(UserWarning, match=r"line \d: damaged"):
        assert build(tmp_path, n=6) == 0
    assert files(tmp_path) == before
    assert json.loads((tmp_path / "out/yield.json").read_text())["run"]["rows"] == 1
    journal.write_bytes(b"[1]\n" + b"".join(lines[1:]))
    assert build(tmp_path, n=6) == 2
    assert "its first line is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["removed", "emptied"])
def test_images_that_were_lost_are_made_again(tmp_path: Path, lose: Any) -> None:
    assert build(tmp_path, n=6) == 0
    before = files(tmp_path)
    lose(tmp_path / "out" / rows(tmp_path)[2]["images"][0])
    assert build(tmp_path, n=6) == 0
    assert files(tmp_path) == before
    assert json.loads((tmp_path / "out/yield.json").read_text())["run"]["rows"] == 1


def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, n_left = Image.Image.save, iter(range(15))

    def until_full(image: Image.Image, *arguments: Any, **keywords: Any) -> None:
        if next(n_left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(image, *arguments, **keywords)

    monkeypatch.setattr(Image.Image, "save", until_full)
    assert build(tmp_path) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "run the same command again" in said
    done = rows(tmp_path)
    assert 3 <= len(done) < 20
    monkeypatch.undo()
    assert build(tmp_path) == 0
    assert rows(tmp_path)[: len(done)] == done
    assert main(["data", "check", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out").rglob("*.part"))


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "expected n, workers"),
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
