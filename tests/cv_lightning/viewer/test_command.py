"""The command: bad input ends in a clear message."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cv_lightning.__main__ import main as command_line
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.viewer.command import main, write
from cv_lightning.viewer.records import find, read
from tests.cv_lightning.viewer.made_records import a_record, written


def test_a_line_that_is_cut_off_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = written(tmp_path, a_record(), extra='{"turns": [{"te')
    assert main([str(target)]) == 0
    shown = capsys.readouterr()
    assert "line 2: not a complete record" in shown.err
    assert "1 broken lines were left out" in Path(shown.out.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"images": 1, "turns": []}', "[" * 5000, "\x00"])
def test_a_file_without_any_record_is_refused_by_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trajectories.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=r"trajectories\.jsonl: contains no trajectory"):
        write(path, tmp_path / "page.html")


def test_what_is_not_there_is_named_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["view", str(tmp_path / "nowhere")]) == 1
    assert "or a run id of MLflow" in capsys.readouterr().err
    assert command_line(["view", str(tmp_path)]) == 1
    assert "no trajectories.jsonl below it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--most: expected at least 1, got 0"):
        main([str(written(tmp_path / "run", a_record())), "--most", "0"])
    with pytest.raises(ConfigError, match="there is no folder"):
        main([str(tmp_path / "run"), "--out", str(tmp_path / "no" / "such" / "folder.html")])


def test_a_record_names_files_of_its_own_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    images = [{"file": name, "turn": -1} for name in ("../secret.png", "images/../../secret.png", "/etc/passwd")]
    target = written(tmp_path / "run", a_record(images=images))
    assert read(find(target)).images == {}
    main([str(target)])
    assert "3 images are missing" in capsys.readouterr().err


def test_only_the_newest_are_shown(tmp_path: Path) -> None:
    target = written(tmp_path, *[a_record(step=step, id=f"id-{step}") for step in range(6)])
    text = write(target, tmp_path / "page.html", most=2).read_text(encoding="utf-8")
    assert "the newest 2 of 6 trajectories" in text
    assert [f"id-{step}" in text for step in range(6)] == [False] * 4 + [True] * 2
