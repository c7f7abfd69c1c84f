"""The guardian ends its command with the trainer or on a signal, and returns when the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.samplers.vllm import guardian

#: Runs for ten minutes; notes a SIGTERM in a file and exits; its child does not end with it.
SERVER = """
import pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
def end(number, frame):
    (folder / "told").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
(folder / "child.tmp").write_text(str(child.pid))
(folder / "child.tmp").rename(folder / "child")
time.sleep(600)
"""


def guard(folder: Path, trainer: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, guardian.__file__, str(trainer), sys.executable, "-S", "-c", SERVER, str(folder)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (folder / "child").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def has_ended(pid: int) -> bool:
    """Whether a process has ended; a zombie counts too."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("number", "is_told"), [(signal.SIGTERM, True), (signal.SIGHUP, True), (signal.SIGINT, False)])
def test_it_ends_all_processes_of_its_command_when_it_is_told(
    number: signal.Signals, is_told: bool, tmp_path: Path
) -> None:
    process = guard(tmp_path, os.getpid())
    child = int((tmp_path / "child").read_text())
    process.send_signal(number)
    assert process.wait(60) == (3 if is_told else -signal.SIGKILL % 256)
    assert (tmp_path / "told").exists() == is_told, "Ctrl-C waits for nobody"
    assert has_ended(child)


def test_it_ends_its_command_with_a_trainer_that_is_gone(tmp_path: Path) -> None:
    process = guard(tmp_path, os.getpid() + 1)  # not the parent, as if the parent had died
    assert process.wait(60) in (3, 256 - signal.SIGTERM), "the server was told"


def test_it_returns_the_status_of_its_command() -> None:
    command = [sys.executable, guardian.__file__, str(os.getpid()), sys.executable, "-S", "-c", "raise SystemExit(5)"]
    assert subprocess.run(command, check=False, timeout=60).returncode == 5
