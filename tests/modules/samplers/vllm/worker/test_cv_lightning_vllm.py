"""The engine's extension, loaded with a stub of vLLM, receives everything that the trainer's transfers send."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from modules.samplers.vllm import worker
from modules.samplers.vllm.server import Server
from modules.samplers.vllm.transfer import FileTransfer, GlooTransfer, WeightTransfer
from modules.samplers.vllm.update import update
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import two_parts


class Model:
    """Records the tensors that it is given, and the steps of vLLM's reload around them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.tensors: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.steps.append("load")
        self.tensors |= dict(weights)


class WeightTransferEngine:
    """The part of vLLM's base class that the extension uses."""

    update_info_cls: Any

    def __init__(self, world_size: int = 1, rank: int = 0) -> None:
        self.model, self.model_config = Model(), None
        self.parallel_config = SimpleNamespace(data_parallel_index=0, world_size=world_size, rank=rank)

    def parse_update_info(self, info: dict[str, Any]) -> Any:
        return self.update_info_cls(**info)


class Factory:
    _registry: dict[str, Any]

    @classmethod
    def register_engine(cls, name: str, engine: Any) -> None:
        cls._registry[name] = engine


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The engines that the extension registers, by name."""
    Factory._registry = {}
    base = {"WeightTransferEngine": WeightTransferEngine}
    base |= {name: type(name, (), {}) for name in ("WeightTransferInitInfo", "WeightTransferUpdateInfo")}
    reload = {
        "initialize_layerwise_reload": lambda model: model.steps.append("begin"),
        "finalize_layerwise_reload": lambda model, config: model.steps.append("end"),
    }
    for name, content in {
        "vllm.distributed.weight_transfer": {"WeightTransferEngineFactory": Factory},
        "vllm.distributed.weight_transfer.base": base,
        "vllm.model_executor.model_loader.reload": reload,
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("vllm", "vllm.distributed", "vllm.model_executor", "vllm.model_executor.model_loader"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    spec = spec_from_file_location("cv_lightning_vllm", Path(worker.__file__).parent / "cv_lightning_vllm.py")
    assert spec is not None
    assert spec.loader is not None
    extension = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, extension)
    spec.loader.exec_module(extension)
    return Factory._registry


class Worker(FakeServer):
    """A server with one worker, which holds an engine."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine

    def _get_get_world_size(self, query: Any, body: Any) -> tuple[int, Any]:
        return 200, {"world_size": 1}

    def _post_init_weight_transfer_engine(self, query: Any, body: Any) -> tuple[int, Any]:
        self.engine.init_transfer_engine(self.engine.init_info_cls(**body["init_info"]))
        return 200, {}

    def _post_start_weight_update(self, query: Any, body: Any) -> tuple[int, Any]:
        self.engine.start_weight_update()
        return super()._post_start_weight_update(query, body)

    def _post_update_weights(self, query: Any, body: Any) -> tuple[int, Any]:
        self.engine.update_weights(body["update_info"])
        return 200, {}

    def _post_finish_weight_update(self, query: Any, body: Any) -> tuple[int, Any]:
        self.engine.finish_weight_update()
        return super()._post_finish_weight_update(query, body)


@pytest.mark.parametrize("way", ["files", "gloo"])
def test_workers_of_two_servers_get_all_tensors_within_one_reload(
    way: str, engines: dict[str, Any], tmp_path: Path
) -> None:
    transfer: WeightTransfer = FileTransfer(tmp_path / "weights") if way == "files" else GlooTransfer()
    with Worker(engines[way]()) as first, Worker(engines[way]()) as second:
        servers = [Server(first.url), Server(second.url)]
        transfer.open(servers)
        update(servers, transfer, two_parts(), "run-1", "keep")
        transfer.close()
    expected = {name: tensor.tolist() for part in two_parts() for name, tensor in part}
    for model in (first.engine.model, second.engine.model):
        assert {name: tensor.tolist() for name, tensor in model.tensors.items()} == expected
        assert model.steps == ["begin", "load", "load", "end"]
    for server in (first, second):
        server.engine.shutdown()
        assert getattr(server.engine, "_group", None) is None


def test_each_worker_of_a_server_has_a_place_of_its_own(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tensor-parallel workers in each of two data-parallel parts, after the trainer and another server's worker."""
    dist: Any = torch.distributed
    ranks: list[int] = []
    monkeypatch.setattr(dist, "TCPStore", lambda *_, **__: None)
    monkeypatch.setattr(dist, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(dist, "ProcessGroupGloo", lambda store, rank, size, timeout: ranks.append(rank))
    for part in range(2):
        for rank in range(2):
            engine = engines["gloo"](world_size=2, rank=rank)
            engine.parallel_config.data_parallel_index = part
            engine.init_transfer_engine(engine.init_info_cls("host", 1, 6, rank_offset=2))
    assert ranks == [2, 3, 4, 5]
