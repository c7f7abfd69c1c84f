"""Ways to send a part of the weights to the servers: `files`, `gloo`, `nccl`, `ipc`.

The trainer uses all of them in the same way: it calls `open` once for some servers, then `send` for each part of each
update, on all of its processes together. Only the first process talks to servers.
"""

from __future__ import annotations

import base64
import datetime
import pickle
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.multiprocessing import reductions

from modules.policy.shards import is_first_process, is_one_of_several
from modules.samplers.vllm.process import free_port
from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.weights import Part

_dist: Any = torch.distributed
_reduce: Any = reductions.reduce_tensor
_nccl: Any = torch.cuda.nccl
#: Longest wait for the engine's workers to join the trainer's group.
_JOIN_S = 300.0


class WeightTransfer(ABC):
    """A way to send weights to servers."""

    #: Whether the sent weights can be sent again to a restarted server without the other processes.
    keeps = False
    #: Whether every process takes part in sending, not only the first.
    is_of_all = False

    def __init__(self) -> None:
        self._servers: list[Server] = []

    def open(self, servers: Sequence[Server]) -> None:
        """Set up the transfer with servers; called again if one was restarted."""
        self._servers = [*servers]
        at_all(servers, lambda server: server.post("/init_weight_transfer_engine", {"init_info": {}}))

    def begin(self, label: str) -> None:  # noqa: B027  # most keep nothing
        """Begin an update."""

    @abstractmethod
    def send(self, part: Part) -> None:
        """Send a part to all servers; raises `ServerFault` on the first process."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Free the resources of the transfer."""

    def _post(self, update_info: dict[str, Any]) -> None:
        at_all(self._servers, lambda server: server.post("/update_weights", {"update_info": update_info}))


def at_all(servers: Sequence[Server], call: Callable[[Server], Any]) -> list[Any]:
    """Call all servers at once; raises the first error once all have answered."""
    if len(servers) == 1:
        return [call(servers[0])]
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return list(pool.map(call, servers))


class FileTransfer(WeightTransfer):
    """Safetensors in a folder that the servers see; in shared memory on one machine.

    They stay until the next update, so a restarted server gets them without the other processes.
    """

    keeps = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._paths: list[str] = []

    def begin(self, label: str) -> None:
        """Delete the old files first: there is at most one copy."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._label = label

    def send(self, part: Part) -> None:
        """Write a file, and let the servers read it."""
        path = self._folder / f"{self._label}-{len(self._paths)}.safetensors"
        try:
            save_file({name: tensor.cpu().contiguous() for name, tensor in part}, path)
        except (OSError, SafetensorError) as error:
            raise ServerFault(f"cannot write {path}: {error}. Put sampler.folder on a disk with more room") from error
        self._paths.append(str(path))
        self._post({"paths": [str(path)]})

    def send_again(self, server: Server) -> None:
        """Let one server read all files."""
        server.post("/update_weights", {"update_info": {"paths": self._paths}})

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._paths = []


class _Broadcast(WeightTransfer):
    """The first process broadcasts in a group of its own with the servers' workers."""

    def send(self, part: Part) -> None:
        """Announce a part and broadcast its tensors while the servers receive them."""
        info = {
            "names": [name for name, _ in part],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in part],
            "shapes": [[*tensor.shape] for _, tensor in part],
        }
        pool = ThreadPoolExecutor(1)
        try:
            answered = pool.submit(self._post, info)
            for _, tensor in part:
                if answered.done():  # refused: no worker would receive
                    answered.result()
                self._broadcast(tensor)
            answered.result()
        except RuntimeError as error:
            raise ServerFault(f"the broadcast of weights failed: {error}") from error
        finally:
            pool.shutdown(wait=False)  # if the broadcast failed, the servers may never answer

    @abstractmethod
    def _broadcast(self, tensor: torch.Tensor) -> None: ...

    def open(self, servers: Sequence[Server]) -> None:
        """Form the group: the servers' workers and this process join at the same time."""
        self.close()
        self._servers = [*servers]
        sizes = [int(server.get("/get_world_size")["world_size"]) for server in servers]
        offsets = [1 + sum(sizes[:index]) for index in range(len(sizes))]
        shared = self._meeting(1 + sum(sizes))
        infos = {
            server.url: shared | {"world_size": 1 + sum(sizes), "rank_offset": offset}
            for server, offset in zip(servers, offsets, strict=True)
        }

        def join(server: Server) -> None:
            server.post("/init_weight_transfer_engine", {"init_info": infos[server.url]})

        pool = ThreadPoolExecutor(1)
        try:
            joined = pool.submit(at_all, servers, join)
            self._join(shared, 1 + sum(sizes))
            joined.result()
        except RuntimeError as error:
            raise ServerFault(f"the engine's workers do not join the trainer: {error}") from error
        finally:
            pool.shutdown(wait=False)

    @abstractmethod
    def _meeting(self, world_size: int) -> dict[str, Any]:
        """The data that the workers need to join."""

    @abstractmethod
    def _join(self, meeting: dict[str, Any], world_size: int) -> None:
        """Join as rank 0."""


class GlooTransfer(_Broadcast):
    """A broadcast over TCP.

    Args:
        host: This machine's address, as the servers reach it.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__()
        self._host = host
        self._group: Any = None

    def _meeting(self, world_size: int) -> dict[str, Any]:
        return {"host": self._host, "port": free_port(self._host), "timeout_s": _JOIN_S}

    def _join(self, meeting: dict[str, Any], world_size: int) -> None:
        timeout = datetime.timedelta(seconds=_JOIN_S)
        store = _dist.TCPStore(self._host, meeting["port"], world_size, is_master=True, timeout=timeout)
        self._group = _dist.ProcessGroupGloo(_dist.PrefixStore("weights", store), 0, world_size, timeout)

    def _broadcast(self, tensor: torch.Tensor) -> None:
        options = _dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._group.broadcast([tensor.cpu().contiguous()], options).wait()

    def close(self) -> None:
        """Leave the group."""
        self._group = None


class NcclTransfer(_Broadcast):
    """vLLM's `nccl`: a broadcast between GPUs. Both environments need the same version of NCCL."""

    def __init__(self) -> None:
        super().__init__()
        self._communicator: Any = None

    def _meeting(self, world_size: int) -> dict[str, Any]:
        self._unique_id = _nccl.unique_id()
        return {"nccl_unique_id_b64": base64.b64encode(self._unique_id).decode()}

    def _join(self, meeting: dict[str, Any], world_size: int) -> None:
        self._communicator = _nccl.init_rank(world_size, self._unique_id, 0)
        first = torch.zeros(1, device="cuda")  # vLLM's workers all-reduce one number right after they join
        _nccl.all_reduce([first], streams=None, comms=[self._communicator])
        torch.cuda.synchronize()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        _nccl.broadcast([tensor.cuda().contiguous()], root=0, comms=[self._communicator])
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        """Leave the group."""
        self._communicator = None


class IpcTransfer(WeightTransfer):
    """vLLM's `ipc`: servers on the trainer's own GPUs map its memory.

    Each process shares the tensors on its device, because a worker can only map tensors of its own device.
    """

    is_of_all = True

    def send(self, part: Part) -> None:
        """Gather the handles of all processes, and let the servers copy."""
        held = [tensor.cuda().contiguous() for _, tensor in part]
        device = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        own = [{device: _reduce(tensor)[1]} for tensor in held]
        torch.cuda.synchronize()
        handles = _merged(own)
        fault: ServerFault | None = None
        if is_first_process() and self._servers:
            info = {
                "names": [name for name, _ in part],
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in held],
                "shapes": [[*tensor.shape] for tensor in held],
                "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode(),
            }
            try:
                self._post(info)
            except ServerFault as error:
                fault = error
        if is_one_of_several():
            _dist.barrier()  # nobody frees what a server still copies
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        if fault is not None:
            raise fault


def _merged(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each tensor, the handles of all processes by device."""
    if not is_one_of_several():
        return own
    gathered: list[Any] = [None] * _dist.get_world_size()
    _dist.all_gather_object(gathered, own)
    return [dict(pair for of_one in each for pair in of_one.items()) for each in zip(*gathered, strict=True)]


def make_transfer(kind: str, folder: Path, host: str) -> WeightTransfer:
    """The transfer with a given name."""
    ways: dict[str, Callable[[], WeightTransfer]] = {
        "files": lambda: FileTransfer(folder),
        "gloo": lambda: GlooTransfer(host),
        "nccl": NcclTransfer,
        "ipc": IpcTransfer,
    }
    return ways[kind]()
