"""Gives new weights to running servers: seven calls, in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

from modules.policy.shards import is_first_process
from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import FileTransfer, WeightTransfer, at_all
from modules.samplers.vllm.weights import Part

#: What happens to turns that are being sampled: they end first, are given up, or are held.
PauseMode = Literal["wait", "abort", "keep"]

_RESETS = 50


def update(
    servers: Sequence[Server], transfer: WeightTransfer, parts: Iterable[Part], label: str, mode: PauseMode
) -> None:
    """Give servers new weights; all processes call this together.

    Args:
        servers: The servers, on the first process; empty on the others.
        transfer: How the weights reach the servers.
        parts: The weights. Every process iterates over all parts, even after a fault, because the others wait for it.
        label: The label of these weights on the servers.
        mode: What happens to turns that are being sampled.

    Raises:
        ServerFault: A server failed; raised on the first process only.
    """
    fault: ServerFault | None = None
    sends = is_first_process() or transfer.is_of_all
    try:
        _begin(servers, mode)
        if sends:
            transfer.begin(label)
    except ServerFault as error:
        fault = error
    for part in parts:
        if sends and (fault is None or transfer.is_of_all):
            try:
                transfer.send(part)
            except ServerFault as error:
                fault = fault or error
    if fault is not None:
        raise fault  # servers stay paused: some have a part of the weights
    _finish(servers, label)


def update_again(server: Server, transfer: FileTransfer, label: str) -> None:
    """Give a restarted server the weights of the others; raises `ServerFault`."""
    _begin([server], "abort")
    transfer.send_again(server)
    _finish([server], label)


def _begin(servers: Sequence[Server], mode: PauseMode) -> None:
    # Processed images stay valid; their features under the old weights are dropped below, explicitly.
    at_all(servers, lambda server: server.post("/pause", mode=mode, clear_cache="false"))
    at_all(servers, lambda server: server.post("/start_weight_update"))


def _finish(servers: Sequence[Server], label: str) -> None:
    at_all(servers, lambda server: server.post("/finish_weight_update", {"weight_version": label}))
    at_all(servers, _reset_prefix_cache)
    # Without this, the new weights would silently get image features of the old weights.
    at_all(servers, lambda server: server.post("/reset_encoder_cache"))
    at_all(servers, lambda server: server.post("/resume"))
    for seen, server in zip(at_all(servers, lambda s: s.get("/weight_info")), servers, strict=True):
        if seen.get("weight_version") != label:
            raise ServerFault(f"{server.url}: expected weights {label!r}, got {seen.get('weight_version')!r}")


def _reset_prefix_cache(server: Server) -> None:
    for _ in range(_RESETS):
        if server.post("/reset_prefix_cache", reset_running_requests="true")["success"]:
            return
        time.sleep(0.1)
    raise ServerFault(f"{server.url}: the prefix cache could not be reset")
