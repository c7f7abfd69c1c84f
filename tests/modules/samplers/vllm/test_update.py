"""The seven calls, the ways of weights, and what a policy's weights are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import FileTransfer, GlooTransfer
from modules.samplers.vllm.update import update, update_again
from modules.samplers.vllm.weights import Part, parts
from tests.modules.helpers import LORA, small_policy
from tests.modules.samplers.vllm.fake import FakeServer

CALLS = [
    *("/pause", "/start_weight_update", "/update_weights", "/finish_weight_update"),
    *("/reset_prefix_cache", "/reset_encoder_cache", "/resume", "/weight_info"),
]


def two_parts() -> Iterator[Part]:
    yield [("a", torch.ones(2, 3)), ("b", torch.zeros(4))]
    yield [("c", torch.ones(1))]


def test_the_calls_come_in_their_order(server: FakeServer, tmp_path: Path) -> None:
    transfer = FileTransfer(tmp_path / "weights")
    client = Server(server.url)
    transfer.open([client])
    server.calls.clear()
    update([client], transfer, two_parts(), "run-1", "wait")
    assert server.calls == [*CALLS[:3], "/update_weights", *CALLS[3:]]
    assert server.version == "run-1"
    assert server.weights == {"a": "[2, 3]", "b": "[4]", "c": "[1]"}
    assert not server.is_paused


def test_a_server_that_comes_later_gets_what_the_others_have(server: FakeServer, tmp_path: Path) -> None:
    transfer = FileTransfer(tmp_path / "weights")
    with FakeServer() as first:
        transfer.open([Server(first.url)])
        update([Server(first.url)], transfer, two_parts(), "run-1", "wait")
    update_again(Server(server.url), transfer, "run-1")
    assert (server.version, server.weights.keys()) == ("run-1", {"a", "b", "c"})
    assert server.calls == CALLS


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


def test_all_parts_are_taken_after_a_fault(server: FakeServer, tmp_path: Path) -> None:
    server.missing = ("/update_weights",)
    transfer = FileTransfer(tmp_path / "weights")
    transfer.open([Server(server.url)])
    taken = []
    with pytest.raises(ServerFault, match="/update_weights: HTTP 404"):
        update([Server(server.url)], transfer, (taken.append(part) or part for part in two_parts()), "run-1", "wait")
    assert len(taken) == 2  # other processes gather them with this one
    assert server.version == "default"


def test_a_label_that_the_server_does_not_show_is_a_fault(server: FakeServer, tmp_path: Path) -> None:
    server._post_finish_weight_update = lambda query, body: (200, {})  # type: ignore[method-assign]
    with pytest.raises(ServerFault, match="expected weights 'run-1', got 'default'"):
        update([Server(server.url)], FileTransfer(tmp_path / "weights"), two_parts(), "run-1", "wait")


def test_a_disk_without_room_is_told(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises((ServerFault, OSError)):
        update([Server(server.url)], FileTransfer(tmp_path / "weights"), two_parts(), "run-1", "wait")


# ---- gloo: its worker's side, with torch alone -----------------------------------------------------------------------


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


# ---- the weights -----------------------------------------------------------------------------------------------------


def tensors_of(policy: Any, dtype: torch.dtype = torch.float32, merge: bool = False, size: int = 1 << 30) -> Any:
    return {name: tensor for part in parts(policy, dtype, merge, size) for name, tensor in part}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_weights_are_those_of_an_exported_policy(family: str, dtype: str, tmp_path: Path) -> None:
    policy = small_policy(family, dtype=dtype)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-5)  # a master: few bfloat16 numbers have such a neighbour
    policy.export(tmp_path)
    weights = tensors_of(policy, policy.dtype)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == weights.keys()
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)


def test_parts_are_no_larger_than_asked() -> None:
    policy = small_policy()
    sizes = [[tensor.numel() * 2 for _, tensor in part] for part in parts(policy, torch.bfloat16, False, 10_000)]
    assert len(sizes) > 3
    assert all(sum(part) <= 10_000 or len(part) == 1 for part in sizes)
    assert sum(map(len, sizes)) == len(tensors_of(policy))


def test_adapters_are_left_out_or_added() -> None:
    policy = small_policy(lora={**LORA, "modules_to_save": ["lm_head"]})
    with torch.no_grad():
        policy.causal.lm_head.modules_to_save["default"].weight.add_(1.0)
    base, merged = tensors_of(policy), tensors_of(policy, merge=True)
    plain = tensors_of(small_policy())
    assert base.keys() == merged.keys() == plain.keys()
    assert all(torch.equal(base[name], plain[name]) for name in plain)
    reference = tensors_of(_Merged(policy.model.merge_and_unload()))
    differing = {name for name in plain if not torch.equal(merged[name], plain[name])}
    assert {name.rpartition(".layers.")[2] for name in differing} == {
        *(f"{layer}.self_attn.{name}_proj.weight" for layer in range(2) for name in "qv"),
        "lm_head.weight",
    }
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, reference[name])


class _Merged:
    """A model in the place of a policy."""

    is_lora = False

    def __init__(self, model: Any) -> None:
        self.causal = self.model = model
