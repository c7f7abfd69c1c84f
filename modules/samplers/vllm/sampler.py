"""The sampler that uses vLLM."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from cv_lightning.errors import ConfigError, EngineError
from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy
from modules.policy.shards import is_first_process, is_one_of_several
from modules.samplers.sampler import Sampler
from modules.samplers.vllm.adapters import Adapters, rank_of
from modules.samplers.vllm.checks import check
from modules.samplers.vllm.engine import Engine, Patience, Place
from modules.samplers.vllm.fleet import Fleet, complain
from modules.samplers.vllm.given import GivenServers
from modules.samplers.vllm.images import EncodedImages
from modules.samplers.vllm.launch import SERVED_NAME, Launch, Needs, Transfer, make_processes
from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.session import Speaker
from modules.samplers.vllm.transfer import FileTransfer, WeightTransfer, make_transfer
from modules.samplers.vllm.update import PauseMode, update, update_again
from modules.samplers.vllm.weight_log import WeightLog
from modules.samplers.vllm.weights import parts, write_model

_Result = TypeVar("_Result")


class VLLM(Sampler):
    """vLLM samples; the trainer sends it the weights and receives token ids and log-probabilities.

    Args:
        servers: Addresses of servers that run already, such as ["http://10.0.0.2:8000"]; docs/engines.md has their
            options.
        launch: Instead of `servers`: how the trainer starts servers itself.
        transfer: How to send weights: "files" (safetensors in `folder`), "gloo" (a broadcast over TCP), "nccl" (a
            broadcast between GPUs), "ipc" (servers on the trainer's own GPUs read its memory).
        dtype: Dtype in which the engine computes; None takes `policy.dtype`.
        adapters: Whether LoRA is sent as adapters; if not, it is merged into the weights that are sent. None sends
            adapters if vLLM can load them.
        every: Interval, in calls of `refresh`, at which weights are sent.
        pause: What happens to turns that are being sampled when weights arrive: they end first ("wait"), are aborted
            and sampled again ("abort"), or continue with the new weights ("keep").
        sleep: Memory that the engine frees between rollouts: none (0), its cache and, by moving them to the host, its
            weights (1), or all (2).
        host: This machine's address, as the servers and the trainer's other machines reach it.
        folder: Folder in which weights and adapters are written for the servers; None takes shared memory. Servers on
            other machines need a disk that they can read too.
        patience: How long failures of servers are tolerated.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        launch: Launch | None = None,
        transfer: Transfer = "files",
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        adapters: bool | None = None,
        every: int = 1,
        pause: PauseMode = "wait",
        sleep: Literal[0, 1, 2] = 0,
        host: str = "127.0.0.1",
        folder: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        if bool(servers) == (launch is not None):
            raise ConfigError("sampler: expected exactly one of servers (addresses) and launch (how to start them).")
        if every < 1:
            raise ConfigError(f"sampler.every: expected at least 1, got {every}.")
        self._urls = [url.rstrip("/") for url in servers]
        self._launch = launch
        self._kind: Transfer = transfer
        self._dtype_name = dtype
        self._wants_adapters = adapters
        self._every = every
        self._pause: PauseMode = pause
        self._sleep = sleep
        self._host = host
        self._given_folder = folder
        self._patience = patience or Patience()
        self._engine: Engine | None = None
        # The first process replaces it in `_open`.
        self._fleet: Fleet | GivenServers = GivenServers([], 0.0)
        self._sleeps = False
        self._n_refreshes = 0

    # ---- the sampler -------------------------------------------------------------------------------------------------

    def attach(self, policy: Policy) -> None:
        """Store the policy; nothing is started yet."""
        super().attach(policy)
        self._dtype: torch.dtype = getattr(torch, self._dtype_name or str(policy.dtype).removeprefix("torch."))
        self.agrees = self._dtype == policy.dtype == torch.float32 and self._every == 1

    @property
    def version(self) -> int:
        """The number of the current weights, as in `Completion.versions`."""
        return 0 if self._engine is None else self._engine.weights.number

    def refresh(self) -> None:
        """Start the engine if it is not running, and send it the weights.

        Raises:
            EngineError: The engine does not start, has other settings than the policy, or does not take the weights.
            ConfigError: vLLM cannot load the adapters, the environment has no vllm, or a port is taken.
        """
        engine = self._connected()
        self._fleet.rest()
        is_due = self._n_refreshes % self._every == 0
        self._n_refreshes += 1
        fault: str | None = None
        for _ in range(self._patience.attempts):
            lacks = self._on_first(self._bring_up)
            fault = self._refreshed(engine, lacks, is_due)
            if fault is None:
                break
            self._fleet.discard()
        if fault is not None:
            raise EngineError(f"The engine does not take the weights: {fault} {self._fleet.last_words()}".rstrip())
        self._fleet.watch(self._revive, self._give_up)

    @contextmanager
    def speaking(self) -> Iterator[SamplingPolicy]:
        """The engine, with the policy's conversation."""
        if self._engine is None:
            raise ValueError("Call refresh() before speaking()")
        yield Speaker(self.policy, self._engine)

    def rest(self) -> None:
        """Let the engine free device memory; all processes call this together."""
        if is_one_of_several():
            torch.distributed.barrier()  # others may still sample
        self._fleet.rest()
        if self._sleep and not self._sleeps and self._engine is not None:
            with suppress(ServerFault):  # a server that is gone holds no memory, and `refresh` notices
                for server in self._fleet.servers:
                    server.post("/sleep", level=str(self._sleep))
            self._sleeps = True

    def close(self) -> None:
        """End the servers that were started here, and delete their files."""
        if self._engine is None:
            return
        self._engine.images.close()
        self._engine = None
        self._fleet.end()
        self._fleet = GivenServers([], 0.0)
        self._transfer.close()
        if is_first_process():
            self._adapters.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._launch is not None:
                shutil.rmtree(self._model_folder, ignore_errors=True)

    # ---- bringing it up ----------------------------------------------------------------------------------------------

    def _connected(self) -> Engine:
        """The state that sessions share, made once; servers are not started yet."""
        if self._engine is not None:
            return self._engine
        rank = rank_of(self.policy) if self._wants_adapters is not False else None
        if self._wants_adapters and rank is None:
            raise ConfigError(
                "sampler.adapters: expected plain LoRA of the language model's layers, because vLLM loads no other. "
                "Set adapters: false: the weights are then sent with the adapters merged in."
            )
        self._uses_adapters = rank is not None
        bounds = self.policy.image_processor.size
        self._needs = Needs(
            dtype=str(self._dtype).removeprefix("torch."),
            max_model_len=self.policy.conversation.max_context_tokens,
            min_pixels=int(bounds["shortest_edge"]),
            max_pixels=int(bounds["longest_edge"]),
            transfer=self._kind,
            lora_rank=rank,
            sleeps=self._sleep > 0,
        )
        token, self._urls = self._on_first(self._open)
        if self._launch is not None:
            write_model(self.policy, self._model_folder, self._dtype)
        self._folder = Path(self._given_folder or _shared_memory()) / f"cv_lightning-{os.getpid()}-{token}"
        self._transfer: WeightTransfer = make_transfer(self._kind, self._folder / "weights", self._host)
        self._adapters = Adapters(self._folder / "adapters")
        scale = f"{self._needs.min_pixels}-{self._needs.max_pixels}"
        self._engine = Engine(
            [Place(url) for url in self._urls],
            WeightLog(token, SERVED_NAME),
            EncodedImages(self.policy.patcher.resized, scale),
            self._patience,
            self._complain,
        )
        return self._engine

    def _open(self) -> tuple[str, list[str]]:
        """On the first process: find or make the servers; returns a token of this run and the servers' addresses."""
        if self._launch is None:
            self._fleet = GivenServers(self._urls, self._patience.away_s)
            return secrets.token_hex(3), self._urls
        made = make_processes(self._launch, self._needs, self._model_folder, self._host)
        self._fleet = Fleet(made, self._launch.start_s, self._launch.restarts, self._complaints)
        return secrets.token_hex(3), [server.url for server in self._fleet.servers]

    def _bring_up(self) -> bool:
        """On the first process: start and check servers that are down; returns whether some lack the weights."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._introduced(self._fleet.bring_up())
            except ServerFault as error:  # a server ended meanwhile
                if attempt == self._patience.attempts:
                    raise EngineError(f"The engine does not take part in transfer={self._kind}: {error}") from error

    def _introduced(self, new: Sequence[Server]) -> bool:
        """Check new servers; if some servers lack the weights, open the transfer to all. Returns whether some do."""
        label = "" if self._engine is None else self._engine.weights.label
        for server in new if label else self._fleet.servers:
            check(server, SERVED_NAME, self._needs)
        lacks = not label or any(
            server.get("/weight_info")["weight_version"] != label for server in self._fleet.servers
        )
        if lacks:
            self._transfer.open(self._fleet.servers)
        return lacks

    # ---- bringing the weights ----------------------------------------------------------------------------------------

    def _refreshed(self, engine: Engine, lacks: bool, is_due: bool) -> str | None:
        """Send missing weights and adapters to all servers; returns the fault, if any, on all processes."""
        brings_weights = lacks or (self._sleeps and self._sleep == 2) or (is_due and not self._uses_adapters)
        label = engine.weights.next_label()
        name = f"{SERVED_NAME}-{label}"
        fault = self._told(lambda: self._wake("weights"))
        if fault is None and brings_weights:
            fault = self._told(lambda: self._update(self._fleet.servers, label, self._pause))
            if fault is None:
                engine.weights.note_weights(label)
        if fault is None and self._uses_adapters and (brings_weights or is_due):
            self._adapters.write(self.policy, name)
            fault = self._told(lambda: self._adapters.load(self._fleet.servers, name))
            if fault is None:
                engine.weights.note_adapter(name)
        if fault is None:
            fault = self._told(lambda: self._wake("kv_cache"))
        self._sleeps &= fault is not None
        return fault

    def _told(self, work: Callable[[], None]) -> str | None:
        """Do work with the servers; returns the first process's fault, if any, on all processes."""
        fault: str | None = None
        try:
            work()
        except ServerFault as error:
            fault = str(error)
        return _of_first(fault)

    def _update(self, servers: Sequence[Server], label: str, mode: PauseMode) -> None:
        merges = self.policy.is_lora and not self._uses_adapters
        has_share = is_first_process() or self.policy.is_sharded or self._transfer.is_of_all
        tensors = parts(self.policy, self._dtype, merges) if has_share else iter(())
        update(servers, self._transfer, tensors, label, mode)

    def _wake(self, tag: str) -> None:
        for server in self._fleet.servers if self._sleeps else ():
            server.post("/wake_up", tags=tag)

    # ---- faults ------------------------------------------------------------------------------------------------------

    def _revive(self, server: Server) -> None:
        """In the watcher's thread: send a restarted server the weights of the others."""
        engine = self._engine
        if engine is None or not engine.weights.label:
            return
        check(server, SERVED_NAME, self._needs)
        if isinstance(self._transfer, FileTransfer):
            server.post("/init_weight_transfer_engine", {"init_info": {}})
            update_again(server, self._transfer, engine.weights.label)
        elif not self.policy.is_sharded and not (self._transfer.is_of_all and is_one_of_several()):
            self._transfer.open(self._fleet.servers)
            self._update(self._fleet.servers, engine.weights.label, "abort")
        else:
            if len(self._fleet.servers) == 1:  # else the others take its turns until `refresh`
                raise EngineError(
                    "The engine ended, and only all processes together can send it the weights. Continue from the "
                    f"last checkpoint. With transfer: files, the run would have continued. {self._fleet.last_words()}"
                )
            return
        if engine.weights.adapter is not None:
            self._adapters.load_again([server], engine.weights.adapter)

    def _give_up(self, error: EngineError) -> None:
        if self._engine is not None:
            self._engine.fault = error

    def _complain(self, place: Place) -> None:
        if self._launch is not None:
            complain(self._complaints, self._urls.index(place.url))

    @property
    def _model_folder(self) -> Path:
        return Path(self._launch.folder if self._launch is not None else "") / "model"

    @property
    def _complaints(self) -> Path:
        return Path(self._launch.folder if self._launch is not None else "") / "complaints"

    def _on_first(self, work: Callable[[], _Result]) -> _Result:
        """Do work on the first process; all processes get its result, or raise its error."""
        result: Any = None
        fault: Exception | None = None
        if is_first_process():
            try:
                result = work()
            except (EngineError, ConfigError) as error:
                fault = error
        result, fault = _of_first((result, fault))
        if fault is not None:
            raise fault
        return result  # type: ignore[no-any-return]


def _of_first(value: _Result) -> _Result:
    """The first process's value, on all processes."""
    if not is_one_of_several():
        return value
    held: list[Any] = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[no-any-return]


def _shared_memory() -> str:
    """A folder in memory; deletes the files that killed runs left there."""
    folder = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())  # noqa: S108
    for left in folder.glob("cv_lightning-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    return str(folder)
