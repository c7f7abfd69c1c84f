"""Finished rows are not built again; damaged or lost rows are."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cv_lightning.__main__ import main
from tests.cv_lightning.construction.builds import build, files, rows


def test_a_second_run_has_nothing_to_do_and_more_can_be_built(built: Path, tmp_path: Path) -> None:
    before = files(built)
    assert main(["data", "build", "--config", str(built / "build.yaml"), "--n=12"]) == 0
    assert len(rows(built)) == 12
    assert main(["data", "build", "--config", str(built / "build.yaml")]) == 0
    assert json.loads((built / "out/yield.json").read_text())["run"]["rows"] == 0
    assert files(built) == before


def test_a_folder_holds_one_build(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(built)
    assert main(["data", "build", "--config", str(built / "build.yaml"), "--planner.seed=9"]) == 2
    assert "holds a build with other settings (planner.seed differ)" in capsys.readouterr().err
    assert files(built) == before


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
    assert "the first line is damaged" in capsys.readouterr().err


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
