"""The `data` commands: the error of a wrong command line gives the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cv_lightning.__main__ import main
from tests.cv_lightning.data.checked import Check, row

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_report_that_cannot_be_written_costs_nothing_that_was_found(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check([row(0), row(1, answer="")])
    assert main(["data", "check", str(tmp_path / "rows.jsonl"), "--report", "/dev/full"]) == 1
    printed = capsys.readouterr()
    assert "good rows: 1 of 2" in printed.out
    assert "--report /dev/full: cannot be written (No space left on device)" in printed.err
    check([row(0)], "--report", str(tmp_path / "new" / "report.json"))
    assert (tmp_path / "new" / "report.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.jsonl"], "There is no file or folder gone.jsonl"),
        (["rows.jsonl", "--format", "x"], "invalid choice: 'x'"),
        ([], "required: path"),
    ],
)
def test_a_wrong_command_line_says_why(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_data_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "chek"]) == 2
    assert "Did you mean 'data check'" in capsys.readouterr().err
    assert main(["data", "--help"]) == 0
    assert "check" in capsys.readouterr().out


def test_the_check_loads_no_torch() -> None:
    heavy = "{'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    code = f"import sys, cv_lightning.data.command; found = {heavy}; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
