"""Servers are watched, restarted and ended, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cv_lightning.errors import EngineError
from modules.samplers.vllm.fleet import Fleet, complain
from modules.samplers.vllm.launch import Launch, make_processes
from tests.modules.samplers.vllm.helpers import HOST, NEEDS, pids_of, server_of


@pytest.fixture
def fleet(launch: Launch, tmp_path: Path) -> Iterator[Fleet]:
    made = make_processes(launch, NEEDS, tmp_path / "engine" / "model", HOST)
    fleet = Fleet(made, launch.start_s, launch.restarts, tmp_path / "complaints")
    yield fleet
    fleet.end()


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_server_is_started_restarted_and_ended(fleet: Fleet, tmp_path: Path) -> None:
    (server,) = fleet.bring_up()
    assert server.get("/weight_info") == {"weight_version": "default"}
    assert fleet.bring_up() == []
    revived = threading.Event()
    fleet.watch(lambda _: revived.set(), pytest.fail)
    killed = server_of(tmp_path / "engine")
    os.kill(killed, signal.SIGKILL)
    with pytest.warns(UserWarning, match="ended and is started again"):
        assert revived.wait(30)
    assert server.is_healthy()
    assert server_of(tmp_path / "engine") != killed
    fleet.end()
    assert not pids_of(tmp_path / "engine")
    assert "fake server at" in (tmp_path / "engine" / "server-0.log").read_text("utf-8")


@pytest.mark.filterwarnings("ignore:The engine at")
def test_a_server_that_hangs_is_restarted(fleet: Fleet, tmp_path: Path) -> None:
    fleet.bring_up()
    stopped = server_of(tmp_path / "engine")
    os.kill(stopped, signal.SIGSTOP)
    complain(tmp_path / "complaints", 0)
    (server,) = fleet.bring_up()
    assert server.is_healthy()
    assert server_of(tmp_path / "engine") != stopped


@pytest.mark.filterwarnings("ignore:The engine at")
def test_restarts_are_bounded(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(3):
        fleet.bring_up()
        os.kill(server_of(tmp_path / "engine"), signal.SIGKILL)
        assert eventually(lambda: not pids_of(tmp_path / "engine"))
    with pytest.raises(EngineError, match=r"launch.restarts: the engine ended too often"):
        fleet.bring_up()


def test_a_server_that_does_not_start_says_why(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "engine" / "does_not_start").touch()
    with pytest.raises(EngineError, match=r"did not start. .*server-0.log: .*no device"):
        fleet.bring_up()


TRAINER = """
import sys, time
from itertools import pairwise
from pathlib import Path
from modules.samplers.vllm.fleet import Fleet
from modules.samplers.vllm.launch import Launch, Needs, make_processes
folder = Path(sys.argv[1])
launch = Launch(str(folder / "environment"), str(folder / "engine"))
made = make_processes(launch, Needs("bfloat16", 600, 784, 40000, "files"), folder / "engine" / "model", "127.0.0.1")
Fleet(made, 60.0, 1, folder).bring_up()
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_trainer_that_ends_leaves_no_process(launch: Launch, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", TRAINER, str(tmp_path)]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "up\n"
    assert len(pids_of(tmp_path / "engine")) == 2
    trainer.send_signal(number)
    trainer.wait(30)
    assert eventually(lambda: not pids_of(tmp_path / "engine"))
