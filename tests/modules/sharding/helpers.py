"""Two processes on one machine, and modules whose rollouts do not depend on how a batch is split."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from cv_lightning.rewards import TERMS
from cv_lightning.types import Group, RewardBreakdown, Rollouts, Sample
from modules.base import PolicyModule
from modules.evaluate import weights_digest
from modules.grpo import GRPOModule
from modules.policy.policy import Policy
from modules.policy.shards import whole
from modules.sft import SFTModule
from tests.modules.helpers import noise


def on_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in processes that start as under `torchrun`, and raise their errors here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context: Any = multiprocessing.get_context("spawn")
    errors: Any = context.Queue()
    processes = [
        context.Process(target=_as_rank, args=(rank, world_size, port, errors, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError("A rank waits for the other")
    if any(process.exitcode for process in processes):
        said = []
        while not errors.empty():  # from the rank that failed, and from the rank that lost it
            said.append(errors.get())
        raise AssertionError("\n".join(said) or [process.exitcode for process in processes])


def _as_rank(
    rank: int, world_size: int, port: int, errors: Any, function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world_size}
    of_torchrun |= {"LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in of_torchrun.items()} | {"TORCHELASTIC_RUN_ID": "test"}
    try:
        function(*arguments)
    except BaseException:  # noqa: BLE001  # the test shows any error
        errors.put(traceback.format_exc())
        errors.close()
        errors.join_thread()
        os._exit(1)
    os._exit(0)


class Recorder:
    """Records each optimizer step of a module, as full tensors."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.start: dict[str, torch.Tensor] = {}
        self.scores: torch.Tensor | None = None

    def begin(self, policy: Policy) -> None:
        """Keep the weights that training starts from."""
        self.start = whole_weights(policy)

    def save(self, module: PolicyModule, path: Path) -> None:
        """On the first rank, write the steps, the scores, and the final weights with their dtypes and sharding."""
        parameters = [*module.policy.parameters()]
        (optimizer,) = module.trainer.optimizers
        held = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        held += [value for state in optimizer.state.values() for value in state.values() if value.ndim]
        record = {
            "steps": self.steps,
            "start": self.start,
            "weights": whole_weights(module.policy),
            "digest": weights_digest(module.policy),
            "scores": self.scores,
            "are_shards": {isinstance(tensor, DTensor) for tensor in (*parameters, *held)},
            "dtypes": [{p.dtype for p in parameters if p.requires_grad is is_trained} for is_trained in (False, True)],
            "optimizer_dtypes": {tensor.dtype for tensor in held},
        }
        if module.trainer.is_global_zero:
            torch.save(record, path)


class RecordedSFT(SFTModule):
    """Records its steps."""

    def __init__(self, policy: Policy, **arguments: Any) -> None:
        super().__init__(policy, **arguments)
        self.recorder = Recorder()

    def on_train_start(self) -> None:
        self.recorder.begin(self.policy)

    def apply_gradients(self) -> Any:
        self.recorder.steps.append({"gradients": whole_gradients(self.policy)})
        return super().apply_gradients()

    def measured(self, own: Any, of_all: Any) -> Any:
        metrics = super().measured(own, of_all)
        self.recorder.steps[-1] |= {"loss": metrics["train/loss"], "norm": metrics["train/grad_norm"]}
        return metrics


class RecordedGRPO(GRPOModule):
    """Records its steps; the seed of each sample does not depend on the rank that samples it."""

    def __init__(self, policy: Policy, **arguments: Any) -> None:
        super().__init__(policy, **arguments)
        self.recorder = Recorder()

    def on_train_start(self) -> None:
        self.recorder.begin(self.policy)

    def roll_out(self, samples: Sequence[Sample], group_size: int, temperature: float, seed: int) -> Rollouts:
        parts = []
        for sample in samples:
            own_seed = 1000 * self.global_step + int(sample.id)
            parts.append(super().roll_out([sample], group_size, temperature, own_seed))
        groups = [group for part in parts for group in part.groups]
        return Rollouts(groups, [of_group for part in parts for of_group in part.breakdowns], 0.0)

    def apply_gradients(self) -> Any:
        self.recorder.steps.append({"gradients": whole_gradients(self.policy)})
        return super().apply_gradients()

    def measured(self, own: Any, of_all: Any) -> Any:
        metrics = super().measured(own, of_all)
        self.recorder.steps[-1] |= {"loss": metrics["rl/loss"], "norm": metrics["train/grad_norm"]}
        return metrics


def whole_weights(policy: Policy) -> dict[str, torch.Tensor]:
    """Every parameter as a full tensor."""
    return {name: whole(value.detach()).clone() for name, value in policy.named_parameters()}


def whole_gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """Every gradient as a full tensor."""
    return {name: whole(p.grad).clone() for name, p in policy.named_parameters() if p.grad is not None}


def score_by_tokens(group: Group, *_: Any) -> list[RewardBreakdown]:
    """Rewards that differ within a group, except for every fourth sample (1, 5, ...): ranks have unequal work."""
    values = [float(sum(t.tokens.ids) % 7) if int(group.sample.id) % 4 != 1 else 0.0 for t in group.trajectories]
    return [RewardBreakdown({**dict.fromkeys(TERMS, 0.0), "accuracy": value}, value > 0) for value in values]


def questions(n: int, first: int = 0) -> list[Sample]:
    """Samples with images of several sizes; every third sample has none."""
    return [
        Sample(str(i), "Read.", () if i % 3 == 2 else (noise(56 + 28 * (i % 3), 56, i),), "K")
        for i in range(first, first + n)
    ]


class Rows:
    """The batches of a rank, with a position that is saved."""

    def __init__(self, batches: Sequence[Sequence[Any]]) -> None:
        self.batches = batches
        self.next = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]
