"""A command writes a file completely, or leaves the old file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cv_lightning.console.output_files import check_place, write_whole
from cv_lightning.errors import ConfigError, DataError


def test_a_place_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--out: .* is a folder. Name a file in it"):
        check_place(tmp_path, "--out")
    with pytest.raises(ConfigError, match=r"--out: .*no folder .*nowhere' to write to"):
        check_place(tmp_path / "nowhere" / "x.html", "--out")
    monkeypatch.chdir(tmp_path)
    check_place(Path("new.html"), "--out")
    assert not [*tmp_path.iterdir()]


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("a longer text that was there", encoding="utf-8")
    write_whole(path, "é", "--html")
    assert path.read_bytes() == "é".encode()
    assert [*tmp_path.iterdir()] == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")
    (tmp_path / "page.html.new").mkdir()
    with pytest.raises(DataError, match=r"cannot be written .*Name another place with --html"):
        write_whole(path, "new", "--html")
    assert path.read_text(encoding="utf-8") == "old"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    write_whole(pipe, "text", "--json")
    reader.join(20)
    assert read == ["text"]
    assert pipe.is_fifo()
