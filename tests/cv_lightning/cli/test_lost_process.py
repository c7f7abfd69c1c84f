"""If one process of a run dies, the others end with a one-line error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.strategies.launchers import subprocess_script

from cv_lightning.cli.lost_process import lost_process
from cv_lightning.errors import TrainingError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("words", ["[gloo/transport] Connection closed by peer", "NCCL watchdog", "Broken pipe"])
def test_what_torch_says_of_a_lost_process_becomes_one_line_with_the_remedy(words: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No checkpoint was saved yet") as caught, lost_process(lambda: tmp_path):
        raise RuntimeError(f"{words}\nand a long traceback")
    assert words in str(caught.value)
    assert "traceback" not in str(caught.value)


def test_the_checkpoint_to_continue_with_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").touch()
    with pytest.raises(TrainingError, match=rf"--ckpt_path {folder}/last.ckpt"), lost_process(lambda: tmp_path):
        raise RuntimeError("gloo: read timed out")


def test_a_run_that_has_not_begun_has_no_folder() -> None:
    with pytest.raises(TrainingError, match="No checkpoint was saved"), lost_process(lambda: None):
        raise RuntimeError("TCPStore")


def test_other_errors_are_raised_as_they_are_and_lightnings_observer_comes_back() -> None:
    before = subprocess_script._launch_process_observer
    inside = []

    def fail() -> None:
        inside.append(subprocess_script._launch_process_observer)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"), lost_process(lambda: None):
        fail()
    assert inside != [before]
    assert subprocess_script._launch_process_observer is before


CODE = """
import subprocess, sys, time
from cv_lightning.cli import lost_process as module
from lightning.pytorch.strategies.launchers import subprocess_script
module._NOTICE_S = 0.1
sleeper = "import time; time.sleep(600)"
children = [subprocess.Popen([sys.executable, "-c", code]) for code in (sleeper, "raise SystemExit(3)")]
print(children[0].pid, flush=True)
with module.lost_process(lambda: None):
    subprocess_script._launch_process_observer(children)
    time.sleep(600)
"""


def test_a_process_that_waits_for_a_dead_one_ends_with_all_the_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1
    assert "error: A process of this run has ended or does not answer (process 2, status 3)" in done.stderr
    state = Path(f"/proc/{done.stdout.strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
