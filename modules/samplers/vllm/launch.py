"""Prepares `vllm serve` as a rollout engine: its options, its environment variables, and checks before the start."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cv_lightning.errors import ConfigError
from modules.samplers.vllm.process import ServerProcess, free_port, is_free

Transfer = Literal["files", "gloo", "nccl", "ipc"]

#: The name under which the model is served.
SERVED_NAME = "policy"
#: Ranks of adapters that vLLM has kernels for.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_WORKER_FOLDER = Path(__file__).parent / "worker"


@dataclass(frozen=True)
class Launch:
    """Servers that the trainer starts, watches, restarts and ends.

    Attributes:
        environment: Folder of a virtual environment that has vllm; "~" is the home folder.
        folder: Where logs and the model's configuration are written.
        servers: How many servers, each with a port of its own.
        port: Port of the first server, which the ports of the others follow; None takes free ports.
        devices: CUDA devices of all servers, which share them evenly; None: those of the trainer.
        tensor_parallel: Devices that share one copy of the model.
        data_parallel: Copies of the model in one server.
        memory: Share of each device's memory that the engine may take.
        max_sequences: Maximum number of conversations that a server samples at once.
        max_images: Maximum number of images in a conversation.
        start_s: Longest time that a start may take.
        restarts: Maximum number of restarts of each server in one run.
        options: More options of `vllm serve`, such as `{enforce-eager: true, kv-cache-dtype: fp8}`; null removes one.
        variables: More environment variables of the servers.
    """

    environment: str
    folder: str = "runs/engine"
    servers: int = 1
    port: int | None = None
    devices: list[int] | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1
    memory: float = 0.9
    max_sequences: int = 256
    max_images: int = 32
    start_s: float = 900.0
    restarts: int = 5
    options: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least_1 = {"servers": self.servers, "tensor_parallel": self.tensor_parallel}
        at_least_1 |= {"data_parallel": self.data_parallel, "max_images": self.max_images}
        for name, value in at_least_1.items():
            if value < 1:
                raise ConfigError(f"launch.{name}: expected at least 1, got {value}.")
        if not 0 < self.memory <= 1:
            raise ConfigError(f"launch.memory: expected a share in (0, 1], got {self.memory}.")
        if self.devices is not None and len(self.devices) != self.servers * self.devices_of_server:
            raise ConfigError(
                f"launch.devices: expected {self.servers * self.devices_of_server} (servers x tensor_parallel x "
                f"data_parallel), got {len(self.devices)}."
            )

    @property
    def devices_of_server(self) -> int:
        """Devices of one server."""
        return self.tensor_parallel * self.data_parallel


@dataclass(frozen=True)
class Needs:
    """Requirements of a policy and its trainer for a server.

    Attributes:
        dtype: Dtype in which the server computes.
        max_model_len: Longest conversation, in tokens.
        min_pixels: `min_pixels` of the policy's image processor.
        max_pixels: `max_pixels` of the policy's image processor.
        transfer: How weights reach the server.
        lora_rank: Rank of the adapters that the server gets; None if it gets no adapters.
        sleeps: Whether the server frees its memory between rollouts.
    """

    dtype: str
    max_model_len: int
    min_pixels: int
    max_pixels: int
    transfer: Transfer
    lora_rank: int | None = None
    sleeps: bool = False


def vllm_version(environment: str) -> str:
    """The version of vllm in an environment.

    Raises:
        ConfigError: The environment has no vllm.
    """
    python = Path(environment).expanduser() / "bin" / "python"
    remedy = (
        f"On a GPU machine: python -m venv {environment} && {environment}/bin/pip install vllm; on a CPU: "
        f"python -m modules.samplers.vllm.environment {environment}"
    )
    if not python.exists():
        raise ConfigError(f"launch.environment: expected a virtual environment, got {environment!r}. {remedy}")
    ask = "import importlib.metadata as m; print(m.version('vllm'))"
    try:
        asked = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"launch.environment: {python} does not run ({error}). {remedy}") from error
    if asked.returncode != 0:
        raise ConfigError(f"launch.environment: expected vllm in {environment!r}, got none. {remedy}")
    return asked.stdout.strip()


def options_of(launch: Launch, needs: Needs, is_cpu: bool) -> dict[str, Any]:
    """The options of `vllm serve`, each with the reason why rollouts need it."""
    pixels = {"min_pixels": needs.min_pixels, "max_pixels": needs.max_pixels}
    options: dict[str, Any] = {
        "served-model-name": SERVED_NAME,
        "dtype": needs.dtype,
        "max-model-len": needs.max_model_len,
        "max-num-seqs": launch.max_sequences,
        "tensor-parallel-size": launch.tensor_parallel,
        "data-parallel-size": launch.data_parallel,
        "limit-mm-per-prompt": {"image": launch.max_images, "video": 0},
        "mm-processor-kwargs": pixels,
        "logprobs-mode": "processed_logprobs",  # of the sampled distribution: temperature and bans included
        "generation-config": "vllm",  # no top-k or temperature from the policy's folder
        "enable-prefix-caching": True,
        "enable-scale-out": True,  # the route for token ids
        "worker-extension-cls": "cv_lightning_vllm.WorkerExtension",
        "weight-transfer-config": {"backend": needs.transfer},
        "disable-uvicorn-access-log": True,
        "seed": 0,
    }
    if needs.lora_rank is not None:
        rank = next((rank for rank in _LORA_RANKS if rank >= needs.lora_rank), needs.lora_rank)
        # A request of the previous step may still use the previous adapter.
        options |= {"enable-lora": True, "max-lora-rank": rank, "max-loras": 2, "max-cpu-loras": 4}
    if needs.sleeps:
        options["enable-sleep-mode"] = True
    if is_cpu:
        # On a CPU, a seeded request with a chunked prefill kills the engine, and the prefix cache never finds blocks of
        # 128 tokens.
        options |= {"enforce-eager": True, "no-enable-chunked-prefill": True, "block-size": 32}
        options["max-num-batched-tokens"] = max(8192, needs.max_model_len)
    else:
        options["gpu-memory-utilization"] = launch.memory
    return options | launch.options


def variables_of(launch: Launch, needs: Needs, is_cpu: bool, devices: Sequence[int] | None) -> dict[str, str]:
    """The environment variables of a server."""
    bin_folder = Path(launch.environment).expanduser() / "bin"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_OF_TRAINER)}
    variables |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # it reads only the run's folder
    variables |= {"PATH": f"{bin_folder}:{os.environ.get('PATH', '')}", "PYTHONPATH": str(_WORKER_FOLDER)}
    if needs.lora_rank is not None:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if needs.transfer == "ipc":
        variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of device memory are pickled
    if is_cpu:
        threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", **threads}
    if devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return variables | {name: str(value) for name, value in launch.variables.items()}


#: Variables of torchrun and Lightning, which would make the engine join the trainer's processes.
_OF_TRAINER = ("MASTER_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "PL_")


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """Options as command-line arguments: True is a flag, None and False are left out, mappings are JSON."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return words


def make_processes(launch: Launch, needs: Needs, model_folder: Path, host: str) -> list[tuple[str, ServerProcess]]:
    """The servers, not yet started, each with its URL.

    Raises:
        ConfigError: The environment has no vllm, or a port is taken.
    """
    is_cpu = vllm_version(launch.environment).endswith("+cpu")
    program = str(Path(launch.environment).expanduser() / "bin" / "vllm")
    options = options_of(launch, needs, is_cpu)
    made = []
    for index in range(launch.servers):
        port = free_port(host) if launch.port is None else launch.port + index
        if not is_free(port, host):
            raise ConfigError(
                f"launch.port: {port} is taken. Give another, or leave it out to get a free one. If an engine of an "
                "earlier run uses it, end that engine or list it under sampler.servers."
            )
        share = launch.devices_of_server
        devices = None if launch.devices is None else launch.devices[index * share : (index + 1) * share]
        command = [program, "serve", str(model_folder), "--host", host, "--port", str(port)]
        variables = variables_of(launch, needs, is_cpu, devices)
        log = Path(launch.folder) / f"server-{index}.log"
        made.append((f"http://{host}:{port}", ServerProcess([*command, *arguments_of(options)], variables, log)))
    return made
