"""Servers that the trainer starts: their options, devices, environments and ports."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cv_lightning.errors import ConfigError
from modules.samplers.vllm.launch import Launch, Needs, arguments_of, make_processes, options_of, variables_of
from modules.samplers.vllm.process import free_port
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import HOST, NEEDS, fake_environment

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
