"""Several processes build the same rows as one process, and a resumed build equals an uninterrupted build."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cv_lightning.__main__ import main
from tests.cv_lightning.construction.builds import build, config, files, rows

ROOT = Path(__file__).parents[3]


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
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 8) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues" in said
        assert 7 <= len(rows(cut)) < 40
    else:
        with journal.open("ab") as file:
            file.write(b'{"index": 39, "kin')  # a half-written line
        (cut / "out/images/0000/39_0.77.part").write_bytes(b"half an image")
    n_before = journal.read_bytes().count(b"\n") - 1
    assert 0 < n_before < 40
    assert main([*command[3:], "--workers=1"]) == 0
    assert json.loads((cut / "out/yield.json").read_text())["run"]["rows"] == 40 - n_before, "nothing is done twice"
    assert files(cut) == uncut
