"""Two ranks compute what one computes: losses, gradients and weights of three steps, whole runs and resumed ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from callbacks.checkpoints import LastCheckpoint
from modules import base
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.samplers.replica import Replica
from modules.sharding.strategy import ShardedStrategy
from tests.modules.helpers import FAMILIES, LORA, episodes, small_policy
from tests.modules.sharding.helpers import RecordedGRPO, RecordedSFT, Rows, on_ranks, questions, score_by_tokens

STRATEGIES: dict[str, Any] = {
    "ddp": lambda: "ddp",
    "sharded": ShardedStrategy,
    "reduced": lambda: ShardedStrategy(reduce_each_micro_batch=True),
}


def make(kind: str, is_sharded: bool, policy: dict[str, Any], optimizer: OptimizerConfig) -> Any:
    arguments: dict[str, Any] = {"optimizer": optimizer, "micro_batch_size": 2}
    if is_sharded:
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
    rows: list[list[Any]] = [
        questions(5, 5 * step) if kind == "rl" else [*episodes(15)][5 * step : 5 * step + 5] for step in range(3)
    ]
    return [of_step[rank::world_size] for of_step in rows]


def run(
    kind: str,
    strategy: str,
    policy: dict[str, Any],
    folder: Path,
    world_size: int = 1,
    optimizer: str = "adamw",
    max_steps: int = 3,
    resume: Path | None = None,
) -> None:
    """Train as this rank, and write what happened, the checkpoint and the exported policy to `folder`."""
    base.score = score_by_tokens  # type: ignore[assignment]
    module = make(kind, strategy in ("sharded", "reduced"), policy, OptimizerConfig(name=optimizer, lr=1e-4))  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=STRATEGIES[strategy]() if strategy != "alone" else "auto",
        max_steps=max_steps,
        callbacks=[LastCheckpoint(folder, every_seconds=0, every_steps=1)],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    rows: Any = Rows(batches(kind, int(os.environ.get("RANK", 0)), world_size))
    trainer.fit(module, rows, ckpt_path=resume, weights_only=False if resume else None)
    if trainer.is_global_zero or module.policy.is_sharded:
        module.policy.export(folder / "policy")
    module.recorder.save(module, folder / "record.pt")


def start(policy: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The policy's arguments with an exported folder as its source, whose weights can be deferred."""
    small_policy(policy.get("family", "qwen2_5_vl")).export(folder / "start")
    return {**{name: value for name, value in policy.items() if name != "family"}, "source": str(folder / "start")}


def differences(one: Path, two: Path) -> list[float]:
    """Largest differences of losses, gradients and weights."""
    expected, actual = torch.load(one / "record.pt"), torch.load(two / "record.pt")
    steps = [*zip(expected["steps"], actual["steps"], strict=True)]
    losses = [abs(a["loss"] - b["loss"]) for a, b in steps]
    gradients = [
        (b["gradients"][name] - value).abs().max().item() for a, b in steps for name, value in a["gradients"].items()
    ]
    weights = [(actual["weights"][name] - value).abs().max().item() for name, value in expected["weights"].items()]
    assert all(a["gradients"].keys() == b["gradients"].keys() for a, b in steps)
    assert all(a["norm"] > 0 for a, _ in steps)
    return [max(losses), max(gradients), max(weights)]


def of_two_ranks_and_one(kind: str, strategy: str, policy: dict[str, Any], folder: Path, **more: Any) -> list[float]:
    arguments = (kind, start(policy, folder))
    on_ranks(1, run, arguments[0], "alone", arguments[1], folder / "one", 1, *more.values())
    on_ranks(2, run, arguments[0], strategy, arguments[1], folder / "two", 2, *more.values())
    return differences(folder / "one", folder / "two")


def test_a_sharded_run_learns_and_exports_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPO: reference, replica, unequal work, ranks without images, checkpoint in the background, export."""
    monkeypatch.setattr(base, "score", base.score)  # `run` replaces it
    policy = start({"family": "qwen3_vl"}, tmp_path)
    run("rl", "alone", policy, tmp_path / "one")
    on_ranks(2, run, "rl", "sharded", policy, tmp_path / "two", 2)
    assert max(differences(tmp_path / "one", tmp_path / "two")) < 1e-5
    exported = dict(Policy(source=str(tmp_path / "two" / "policy")).named_parameters())
    for name, value in torch.load(tmp_path / "two" / "record.pt")["weights"].items():
        assert torch.equal(exported[name], value), name
    assert (tmp_path / "two" / "last.ckpt").resolve().name == "last.ckpt.step-3"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_two_ranks_are_one(kind: str, family: str, adapters: bool, strategy: str, tmp_path: Path) -> None:
    policy = {"family": family, **({"lora": LORA} if adapters else {})}
    found = of_two_ranks_and_one(kind, strategy, policy, tmp_path)
    print(f"{kind} {family} {'lora' if adapters else 'full'} {strategy}:", *(f"{value:.1e}" for value in found))
    assert max(found) < 1e-5


@pytest.mark.slow
def test_muon_steps_whole_matrices(tmp_path: Path) -> None:
    """Its Newton-Schulz steps are in bfloat16, which makes a last bit of a gradient 1e-2 of a step of lr 1e-4."""
    found = of_two_ranks_and_one("sft", "sharded", {}, tmp_path, optimizer="muon")
    assert max(found) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 1])
def test_a_resumed_run_is_an_unbroken_one_on_any_number_of_ranks(ranks: int, tmp_path: Path) -> None:
    policy = start({}, tmp_path)
    on_ranks(2, run, "rl", "sharded", policy, tmp_path / "whole", 2)
    on_ranks(2, run, "rl", "sharded", policy, tmp_path / "cut", 2, "adamw", 2)
    on_ranks(ranks, run, "rl", "sharded", policy, tmp_path / "rest", ranks, "adamw", 3, tmp_path / "cut" / "last.ckpt")
    whole, rest = (torch.load(tmp_path / name / "record.pt") for name in ("whole", "rest"))
    assert len(rest["steps"]) == 1
    for name, value in whole["weights"].items():
        torch.testing.assert_close(rest["weights"][name], value, rtol=0, atol=1e-5)
