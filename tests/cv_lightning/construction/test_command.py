"""The command and a worker process read a config alike, and the command names invalid options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_lightning.__main__ import main
from cv_lightning.construction import command
from cv_lightning.construction.command import make_maker, make_parser
from tests.cv_lightning.construction.builds import build, config, rows


def test_a_worker_makes_the_rows_of_the_command(built: Path) -> None:
    """The worker gets the config as plain values, without the additions of `--config`."""
    parser = make_parser()
    parsed = parser.parse_args(["--config", str(built / "build.yaml")])
    plain: dict[str, Any] = json.loads(parser.dump(parsed, format="json", skip_none=False))
    before = json.dumps(plain)
    maker = make_maker(plain)
    try:
        item = maker.make(7)
    finally:
        maker.close()
    assert json.dumps(plain) == before, "the config is left as it is"
    assert item.record is not None
    (row,) = [row for row in rows(built) if row["provenance"]["index"] == 7]
    assert json.loads(json.dumps(item.record))["conversations"] == row["conversations"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"max_attemps": 3}, "max_attempts"), ({"n": "many"}, "n"), ({"planner": {"seeds": 1}}, "planner.seed")],
)
def test_a_wrong_option_is_named_with_the_command_that_helps(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert main(["data", "build", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "See python -m cv_lightning data build --help." in said


def test_ctrl_c_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_build", interrupted)
    assert build(tmp_path) == 130
    assert f"finished rows are in {tmp_path / 'out'}; the same command continues" in capsys.readouterr().err
