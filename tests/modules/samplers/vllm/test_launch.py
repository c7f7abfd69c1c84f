"""Servers that the trainer starts: their options, their faults, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cv_lightning.errors import ConfigError, EngineError
from modules.samplers.vllm.fleet import Fleet, complain
from modules.samplers.vllm.launch import Launch, Needs, arguments_of, make_processes, options_of, variables_of
from modules.samplers.vllm.process import free_port
from tests.modules.helpers import small_policy
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import fake_environment

NEEDS = Needs("bfloat16", 600, 784, 40000, "files", None)
HOST = "127.0.0.1"


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    small_policy().export(tmp_path / "engine" / "model")
    return Launch(str(fake_environment(tmp_path / "environment")), str(tmp_path / "engine"), start_s=60.0, restarts=2)


@pytest.fixture
def fleet(launch: Launch, tmp_path: Path) -> Iterator[Fleet]:
    made = make_processes(launch, NEEDS, tmp_path / "engine" / "model", HOST)
    fleet = Fleet(made, launch.start_s, launch.restarts, tmp_path / "complaints")
    yield fleet
    fleet.end()


def pids_of(folder: Path) -> list[int]:
    """Fake servers whose model is below a folder, their guardians included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(str(folder)) for word in words) and str(os.getpid()) != path.parent.name:
            found.append(int(path.parent.name))
    return found


def server_of(folder: Path) -> int:
    """The fake itself."""
    (pid,) = [pid for pid in pids_of(folder) if "guardian" not in Path(f"/proc/{pid}/cmdline").read_text("utf-8")]
    return pid


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# ---- settings --------------------------------------------------------------------------------------------------------


def test_options_of_a_gpu_and_of_a_cpu() -> None:
    launch = Launch("env", tensor_parallel=2, options={"enforce-eager": True, "seed": None, "x": {"a": 1}})
    words = arguments_of(options_of(launch, NEEDS, is_cpu=False))
    pairs = dict(pairwise(words))
    assert pairs["--dtype"] == "bfloat16"
    assert pairs["--tensor-parallel-size"] == "2"
    assert pairs["--mm-processor-kwargs"] == '{"min_pixels": 784, "max_pixels": 40000}'
    assert pairs["--weight-transfer-config"] == '{"backend": "files"}'
    assert pairs["--gpu-memory-utilization"] == "0.9"
    assert pairs["--x"] == '{"a": 1}'
    assert "--enforce-eager" in words
    assert not {"--seed", "--enable-lora", "--enable-sleep-mode", "--no-enable-chunked-prefill"} & set(words)
    on_cpu = arguments_of(options_of(launch, NEEDS, is_cpu=True))
    assert "--no-enable-chunked-prefill" in on_cpu
    assert "--gpu-memory-utilization" not in on_cpu


def test_options_of_adapters_and_sleep() -> None:
    needs = Needs("bfloat16", 600, 784, 40000, "ipc", lora_rank=12, sleeps=True)
    words = arguments_of(options_of(Launch("env"), needs, is_cpu=False))
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert "--enable-sleep-mode" in words
    variables = variables_of(Launch("env", variables={"A": "1"}), needs, False, [5, 6])
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "1"
    assert variables["CUDA_VISIBLE_DEVICES"] == "5,6"
    assert variables["A"] == "1"


def test_the_docs_name_every_option_and_variable() -> None:
    said = (Path(__file__).parents[4] / "docs" / "engines.md").read_text("utf-8")
    needs = Needs("bfloat16", 600, 784, 40000, "ipc", lora_rank=8, sleeps=True)
    for option in options_of(Launch("env"), needs, is_cpu=False):
        assert f"--{option}" in said, option
    ours = (
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "PYTHONPATH",
    )
    assert set(ours) <= variables_of(Launch("env"), needs, False, None).keys()
    assert all(name in said for name in ours)


def test_a_server_does_not_join_the_trainers_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"} & variables_of(Launch("e"), NEEDS, True, None).keys()


def test_devices_must_fit() -> None:
    assert Launch("e", servers=3, devices=[5, 6, 7]).devices_of_server == 1
    with pytest.raises(ConfigError, match=r"launch.devices: expected 4 .*, got 3"):
        Launch("e", servers=2, tensor_parallel=2, devices=[5, 6, 7])
    with pytest.raises(ConfigError, match=r"launch.memory"):
        Launch("e", memory=1.5)


def test_an_environment_without_vllm_names_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a virtual environment, got .*pip install vllm"):
        make_processes(Launch(str(tmp_path / "none")), NEEDS, tmp_path, HOST)
    folder = fake_environment(tmp_path / "environment")
    (folder / "site" / "vllm-0.32.0+cpu.dist-info" / "METADATA").unlink()
    (folder / "site" / "vllm-0.32.0+cpu.dist-info").rmdir()
    with pytest.raises(ConfigError, match=r"expected vllm in .*, got none"):
        make_processes(Launch(str(folder)), NEEDS, tmp_path, HOST)


def test_a_port_that_is_taken(launch: Launch, tmp_path: Path) -> None:
    with FakeServer() as other:
        port = int(other.url.rpartition(":")[2])
        taken = Launch(launch.environment, launch.folder, port=port)
        with pytest.raises(ConfigError, match=f"launch.port: {port} is taken"):
            make_processes(taken, NEEDS, tmp_path, HOST)
    port = free_port()
    ((url, _),) = make_processes(Launch(launch.environment, launch.folder, port=port), NEEDS, tmp_path, HOST)
    assert url == f"http://{HOST}:{port}"


# ---- processes -------------------------------------------------------------------------------------------------------


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
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "up\n"
    assert len(pids_of(tmp_path / "engine")) == 2
    trainer.send_signal(number)
    trainer.wait(30)
    assert eventually(lambda: not pids_of(tmp_path / "engine"))
