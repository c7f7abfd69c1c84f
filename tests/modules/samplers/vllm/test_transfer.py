"""The ways of weights to servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import FileTransfer, GlooTransfer
from modules.samplers.vllm.update import update
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import two_parts


def test_files_of_the_last_update_alone_are_kept(server: FakeServer, tmp_path: Path) -> None:
    transfer = FileTransfer(tmp_path / "weights")
    transfer.open([Server(server.url)])
    for label in ("run-1", "run-2"):
        update([Server(server.url)], transfer, two_parts(), label, "wait")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [
        "run-2-0.safetensors",
        "run-2-1.safetensors",
    ]
    transfer.close()
    assert not (tmp_path / "weights").exists()


def test_a_disk_without_room_is_told(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises((ServerFault, OSError)):
        update([Server(server.url)], FileTransfer(tmp_path / "weights"), two_parts(), "run-1", "wait")


def test_gloo_brings_tensors_to_workers_of_two_servers() -> None:
    received: dict[str, dict[str, torch.Tensor]] = {}
    dist: Any = torch.distributed

    class Worker(FakeServer):
        """Takes part in the broadcasts as the engine's extension does."""

        def _get_get_world_size(self, query: Any, body: Any) -> tuple[int, Any]:
            return 200, {"world_size": 1}

        def _post_init_weight_transfer_engine(self, query: Any, body: Any) -> tuple[int, Any]:
            info = body["init_info"]
            store = dist.TCPStore(info["host"], info["port"], info["world_size"], is_master=False)
            prefix = dist.PrefixStore("weights", store)
            timeout = dist.default_pg_timeout
            self.group = dist.ProcessGroupGloo(prefix, info["rank_offset"], info["world_size"], timeout)
            return 200, {}

        def _post_update_weights(self, query: Any, body: Any) -> tuple[int, Any]:
            options = dist.BroadcastOptions()
            options.rootRank, options.rootTensor = 0, 0
            info = body["update_info"]
            for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                self.group.broadcast([tensor], options).wait()
                received.setdefault(self.url, {})[name] = tensor
            return 200, {}

    with Worker() as first, Worker() as second:
        servers = [Server(first.url), Server(second.url)]
        transfer = GlooTransfer()
        transfer.open(servers)
        update(servers, transfer, two_parts(), "run-1", "keep")
        transfer.close()
    assert received.keys() == {first.url, second.url}
    for tensors in received.values():
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
            name: tensor.tolist() for part in two_parts() for name, tensor in part
        }
