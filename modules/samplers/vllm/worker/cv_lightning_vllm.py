"""Loaded by vLLM's workers (`--worker-extension-cls cv_lightning_vllm.WorkerExtension`): two weight transfers.

A worker imports its extension before it makes its transfer engine, so importing this file is enough to register both.
vLLM's own `nccl` and `ipc` need CUDA; these two do not, and use the same HTTP routes:

- `files`: the trainer writes safetensors, to shared memory on one machine, and sends their paths.
- `gloo`: the trainer broadcasts tensors over TCP to the workers of all servers.

Weights come in checkpoint format; vLLM's layerwise reload fuses, shards and packs them into the live tensors. This file
runs in the engine's environment and imports nothing of the project.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from safetensors import safe_open

_dist: Any = torch.distributed
_base: Any = import_module("vllm.distributed.weight_transfer.base")
_factory: Any = import_module("vllm.distributed.weight_transfer").WeightTransferEngineFactory


class _InCheckpointFormat(_base.WeightTransferEngine):  # type: ignore[misc]
    """Base of both transfers."""

    def start_weight_update(self) -> None:
        """Prepare the layers for new weights."""
        import_module("vllm.model_executor.model_loader.reload").initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Pack the loaded weights."""
        reload = import_module("vllm.model_executor.model_loader.reload")
        reload.finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one part of the weights; vLLM's own version synchronizes an accelerator, which a CPU lacks."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()


@dataclass
class FilesInit(_base.WeightTransferInitInfo):  # type: ignore[misc]
    """Empty: files need no setup."""


@dataclass
class FilesUpdate(_base.WeightTransferUpdateInfo):  # type: ignore[misc]
    """Paths of safetensors."""

    paths: list[str]


class FilesEngine(_InCheckpointFormat):
    """Reads files."""

    init_info_cls, update_info_cls = FilesInit, FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """Open nothing."""

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """Load the tensors of the files."""
        self.model.load_weights(_tensors(update_info.paths))

    def shutdown(self) -> None:
        """Free nothing."""


def _tensors(paths: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dictionary
                yield name, file.get_tensor(name)


@dataclass
class GlooInit(_base.WeightTransferInitInfo):  # type: ignore[misc]
    """Address of the trainer, and rank of this server's first worker in the group."""

    host: str
    port: int
    world_size: int
    rank_offset: int = 1
    timeout_s: float = 300.0


@dataclass
class GlooUpdate(_base.WeightTransferUpdateInfo):  # type: ignore[misc]
    """Description of the tensors that follow."""

    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class GlooEngine(_InCheckpointFormat):
    """Receives broadcasts from the trainer, which is rank 0."""

    init_info_cls, update_info_cls = GlooInit, GlooUpdate
    _group: Any = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Join the trainer's group, which is separate from vLLM's own."""
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        timeout = datetime.timedelta(seconds=init_info.timeout_s)
        store = _dist.TCPStore(init_info.host, init_info.port, init_info.world_size, is_master=False, timeout=timeout)
        self._group = _dist.ProcessGroupGloo(_dist.PrefixStore("weights", store), rank, init_info.world_size, timeout)

    def receive_weights(self, update_info: GlooUpdate) -> None:
        """Load the tensors as they arrive."""
        self.model.load_weights(self._received(update_info))

    def _received(self, update_info: GlooUpdate) -> Iterator[tuple[str, torch.Tensor]]:
        options = _dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        listed = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for name, dtype, shape in listed:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device="cpu")
            self._group.broadcast([tensor], options).wait()
            yield name, tensor

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


for _name, _engine in (("files", FilesEngine), ("gloo", GlooEngine)):
    if _name not in _factory._registry:
        _factory.register_engine(_name, _engine)


class WorkerExtension:
    """Mixed into vLLM's worker; its name on the command line makes vLLM import this file."""
