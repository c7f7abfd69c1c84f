"""Two ranks compute what one computes: losses, gradients and weights of three steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules import base
from modules.optimizer import OptimizerConfig
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.samplers.replica import Replica
from modules.sharding.strategy import ShardedStrategy
from tests.modules.helpers import FAMILIES, LORA, episodes, small_policy, train
from tests.modules.sharding.helpers import RecordedGRPO, RecordedSFT, on_ranks, questions, score_by_tokens

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks after CUDA has started")

STRATEGIES = {"ddp": lambda: "ddp", "sharded": ShardedStrategy, "reduced": lambda: ShardedStrategy(True)}


def make(kind: str, strategy: str, policy: dict[str, Any], optimizer: str = "adamw") -> Any:
    arguments: dict[str, Any] = {"optimizer": OptimizerConfig(name=optimizer, lr=1e-4), "micro_batch_size": 2}
    if strategy in ("sharded", "reduced"):
        arguments["sampler"] = Replica()
        policy = {**policy, "deferred": True}
    if kind == "sft":
        return RecordedSFT(small_policy(**policy), **arguments)
    return RecordedGRPO(
        small_policy(**policy),
        group_size=3,
        policy_gradient=PolicyGradientConfig(kl_coefficient=0.01, aggregation="sequence_mean"),
        rollout=RolloutConfig(max_turns=1, max_new_tokens=6, lane="pillow"),
        **arguments,
    )


def batches(kind: str, rank: int, world_size: int) -> list[list[Any]]:
    """Three batches; ranks get other numbers of rows, of other lengths."""
    rows = [questions(5, 5 * step) if kind == "rl" else [*episodes(15)][5 * step : 5 * step + 5] for step in range(3)]
    return [of_step[rank::world_size] for of_step in rows]


def run(kind: str, strategy: str, policy: dict[str, Any], path: Path, world_size: int, optimizer: str) -> None:
    import os

    module = make(kind, strategy, policy, optimizer)
    rank = int(os.environ.get("RANK", 0))
    devices: dict[str, Any] = {"devices": world_size}
    if world_size > 1:
        devices["strategy"] = STRATEGIES[strategy]()
    train(module, batches(kind, rank, world_size), use_distributed_sampler=False, **devices)
    module.recorder.save(module, path)


def differences(
    kind: str, strategy: str, policy: dict[str, Any], folder: Path, optimizer: str = "adamw"
) -> list[float]:
    """Largest differences of losses, gradients and weights between one rank and two."""
    alone, together = folder / "one.pt", folder / "two.pt"
    if "source" not in policy and strategy != "ddp":
        made = {name: value for name, value in policy.items() if name == "family"}
        small_policy(**made).export(folder / "start")
        rest = {name: value for name, value in policy.items() if name != "family"}
        policy = {**rest, "source": str(folder / "start")}
    on_ranks(1, run, kind, "ddp", policy, alone, 1, optimizer)
    on_ranks(2, run, kind, strategy, policy, together, 2, optimizer)
    expected, actual = torch.load(alone), torch.load(together)
    losses = [abs(a["loss"] - b["loss"]) for a, b in zip(expected["steps"], actual["steps"], strict=True)]
    gradients = [
        (step["gradients"][name] - value).abs().max().item()
        for step, other in zip(actual["steps"], expected["steps"], strict=True)
        for name, value in other["gradients"].items()
    ]
    weights = [(actual["weights"][name] - value).abs().max().item() for name, value in expected["weights"].items()]
    assert len(losses) == 3
    assert len(gradients) >= 3
    return [max(losses), max(gradients), max(weights)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded", "reduced"])
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_two_ranks_are_one(
    kind: str, family: str, adapters: bool, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "score", score_by_tokens)
    found = differences(kind, strategy, {"family": family, **({"lora": LORA} if adapters else {})}, tmp_path)
    print(f"TABLE {kind} {family} {'lora' if adapters else 'full'} {strategy}", *(f"{value:.1e}" for value in found))
    assert max(found) < 1e-5
