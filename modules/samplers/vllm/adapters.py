"""LoRA at run time: each update is a new adapter with a name and a folder of its own.

An engine that reloads an adapter under its old name keeps cached prefixes of the old adapter.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modules.policy.policy import Policy
from modules.policy.sharded_export import adapter_tensors
from modules.policy.shards import is_first_process
from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import at_all

#: Number of adapters that stay loaded: running requests may still use the previous adapter.
_KEPT = 2


def rank_of(policy: Policy) -> int | None:
    """The rank of the policy's adapters; None if an engine cannot load them and gets merged weights instead.

    vLLM loads plain LoRA of the language model: no trained copies of modules, no biases, no DoRA, no vision tower.
    """
    if not policy.is_lora:
        return None
    (config,) = policy.model.peft_config.values()
    plain = not config.modules_to_save and config.bias == "none" and not config.use_dora and not config.lora_bias
    names = [name for name, module in policy.core.named_modules() if hasattr(module, "lora_A")]
    if not plain or not names or not all(name.startswith("language_model.layers.") for name in names):
        return None
    return int(max([config.r, *config.rank_pattern.values()]))


class Adapters:
    """The adapters that servers were given.

    Args:
        folder: Folder in which they are written; the servers must see it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []

    def write(self, policy: Policy, name: str) -> None:
        """Write the adapters; if the policy is sharded, all processes call this, and the first writes."""
        tensors: dict[str, Any] | None = None
        with torch.no_grad():
            if policy.is_sharded:
                tensors = adapter_tensors(policy.model, policy.dtype)
            if is_first_process():
                policy.model.save_pretrained(self._folder / name, state_dict=tensors)

    def load(self, servers: Sequence[Server], name: str) -> None:
        """Let servers load the adapter that was written last, and unload old adapters; raises `ServerFault`."""
        self.load_again(servers, name)
        self._names.append(name)
        for old in self._names[:-_KEPT]:
            at_all(servers, partial(_unload, name=old))
            shutil.rmtree(self._folder / old, ignore_errors=True)
        self._names = self._names[-_KEPT:]

    def load_again(self, servers: Sequence[Server], name: str) -> None:
        """Let servers load an adapter that was written before; raises `ServerFault`."""
        body = {"lora_name": name, "lora_path": str(self._folder / name)}
        at_all(servers, partial(_load, body=body))

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _load(server: Server, body: dict[str, str]) -> None:
    try:
        server.post("/v1/load_lora_adapter", body)
    except ServerFault as error:
        if "already been loaded" not in str(error):  # by an earlier attempt
            raise


def _unload(server: Server, name: str) -> None:
    with suppress(ServerFault):  # a server that was restarted never had it
        server.post("/v1/unload_lora_adapter", {"lora_name": name})
