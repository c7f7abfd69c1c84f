"""The available commands, their help, and their errors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cv_lightning.__main__ import COMMANDS, main
from cv_lightning.errors import DataError
from tests.cv_lightning.cli.stage_config import error_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "meant"), [(["reproduse"], "reproduce"), (["data", "chekc", "x"], "data check"), (["dat"], "data")]
)
def test_unknown_command_is_named(arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(arguments, capsys)
    assert repr(" ".join(arguments[:2])) in error
    assert meant in error


def test_other_errors_of_ours_end_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise DataError("Row 3: no image")

    monkeypatch.setattr("cv_lightning.cli.reproduce.main", fail)
    assert error_of(["reproduce"], capsys, code=1) == "error: Row 3: no image"


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["data"], ["reproduce", "--help"], ["--version"], ["reproduce", "--seed", "x"]]
)
def test_light_commands_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom cv_lightning.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'transformers', 'mlflow', 'kornia', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_more_is_one_line(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: list[str]) -> int:
        raise OSError(code, os.strerror(code), "runs/tiny/run_fit.json")

    monkeypatch.setattr("cv_lightning.__main__.run", full)
    assert main(["fit"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/tiny/run_fit.json: {os.strerror(code)}.")
    monkeypatch.setattr("cv_lightning.__main__.run", lambda arguments: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError, match="x"):
        main(["fit"])


def test_help_lists_the_commands_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_help_of_a_command_begins_with_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["fit", "--help"])
    assert ending.value.code == 0
    text = capsys.readouterr().out
    assert "--config FILE" in text.splitlines()[0]
    assert "--trainer.max_steps" in text
    assert "--optimizer" not in text
