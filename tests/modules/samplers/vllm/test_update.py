"""The seven calls of an update, servers that join later, and faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import FileTransfer
from modules.samplers.vllm.update import update, update_again
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import two_parts

CALLS = [
    *("/pause", "/start_weight_update", "/update_weights", "/finish_weight_update"),
    *("/reset_prefix_cache", "/reset_encoder_cache", "/resume", "/weight_info"),
]


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


def test_all_parts_are_taken_after_a_fault(server: FakeServer, tmp_path: Path) -> None:
    server.missing = ("/update_weights",)
    transfer = FileTransfer(tmp_path / "weights")
    transfer.open([Server(server.url)])
    taken = []
    with pytest.raises(ServerFault, match="/update_weights: HTTP 404"):
        update([Server(server.url)], transfer, (taken.append(part) or part for part in two_parts()), "run-1", "wait")
    assert len(taken) == 2  # other processes gather all parts together with this one
    assert server.version == "default"


def test_a_label_that_the_server_does_not_show_is_a_fault(server: FakeServer, tmp_path: Path) -> None:
    server._post_finish_weight_update = lambda query, body: (200, {})  # type: ignore[method-assign]
    with pytest.raises(ServerFault, match="expected weights 'run-1', got 'default'"):
        update([Server(server.url)], FileTransfer(tmp_path / "weights"), two_parts(), "run-1", "wait")
