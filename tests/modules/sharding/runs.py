"""Runs of three steps on one rank of several, and records of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from callbacks.checkpoints import LastCheckpoint
from modules import scoring
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.policy.shards import reshard
from modules.policy.token_batch import TokenBatch
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.samplers.replica import Replica
from modules.sharding.strategy import ShardedStrategy
from tests.modules.helpers import LORA, episodes, small_policy
from tests.modules.sharding.helpers import RecordedGRPO, RecordedSFT, Rows, questions, score_by_tokens

STRATEGIES: dict[str, Any] = {
    "alone": lambda: "auto",
    "ddp": lambda: "ddp",
    "sharded": ShardedStrategy,
    "reduced": lambda: ShardedStrategy(reduce_each_micro_batch=True),
}


@dataclass(frozen=True)
class Case:
    """A training run.

    Attributes:
        kind: "sft" or "rl".
        policy: Arguments of the policy, except `family`, which is the family of the start.
        is_tied: Whether the head of the start is tied to its embedding.
        optimizer: Settings of the optimizer.
        max_steps: Number of steps.
        is_merged: Whether the start is a folder of adapters.
    """

    kind: str
    policy: dict[str, Any] = field(default_factory=dict)
    is_tied: bool = False
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)  # noqa: RUF009  # frozen
    max_steps: int = 3
    is_merged: bool = False

    @property
    def name(self) -> str:
        """The name in tables and of folders."""
        settings = {
            **self.policy,
            "lora": "lora" if "lora" in self.policy else "full",
            "tied": self.is_tied,
            "merged": self.is_merged,
        }
        words = [name if value is True else str(value) for name, value in settings.items() if value]
        return " ".join([self.kind, *words])


def matrix(*families: str) -> list[Case]:
    """SFT and GRPO, each full and with adapters, for each family."""
    return [
        Case(kind, {"family": family, **lora})
        for family in families
        for kind in ("sft", "rl")
        for lora in ({}, {"lora": LORA})
    ]


def start(case: Case, folder: Path) -> dict[str, Any]:
    """The arguments of a policy whose source is a new export, so that its weights can be deferred."""
    policy = small_policy(case.policy.get("family", "qwen2_5_vl"), lora=LORA if case.is_merged else None)
    if case.is_tied:
        policy.model.config.tie_word_embeddings = policy.model.config.text_config.tie_word_embeddings = True
        policy.model.tie_weights()
    policy.export(folder)
    return {**{name: value for name, value in case.policy.items() if name != "family"}, "source": str(folder)}


def make(case: Case, policy: dict[str, Any], is_sharded: bool) -> Any:
    arguments: dict[str, Any] = {"optimizer": case.optimizer, "micro_batch_tokens": 250}
    if is_sharded:
        arguments["sampler"] = Replica()
        policy = {**policy, "deferred": True}
    made = with_own_adapters(small_policy(**policy))
    if case.kind == "sft":
        return RecordedSFT(made, **arguments)
    return RecordedGRPO(
        made,
        group_size=3,
        policy_gradient=PolicyGradientConfig(kl_coefficient=0.01, aggregation="sequence_mean"),
        rollout=RolloutConfig(max_turns=1, max_new_tokens=6, lane="pillow"),
        **arguments,
    )


def with_own_adapters(policy: Policy) -> Policy:
    """Set adapters that do not depend on earlier draws, because loading a full model may draw random numbers."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            parameter.data = (0.1 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return policy


def batches(kind: str, rank: int, world_size: int) -> list[list[Any]]:
    """Three batches; ranks get different numbers of rows, with different lengths."""
    rows: list[list[Any]] = [
        questions(5, 5 * step) if kind == "rl" else [*episodes(15)][5 * step : 5 * step + 5] for step in range(3)
    ]
    return [of_step[rank::world_size] for of_step in rows]


def run(
    case: Case, strategy: str, policy: dict[str, Any], folder: Path, world_size: int = 1, resume: Path | None = None
) -> None:
    """Train as this rank, and write the record, the checkpoint and the exported policy to `folder`."""
    torch.set_num_threads(1)
    scoring.score = score_by_tokens  # type: ignore[assignment]
    module = make(case, policy, strategy in ("sharded", "reduced"))
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=STRATEGIES[strategy](),
        max_steps=case.max_steps,
        callbacks=[LastCheckpoint(folder, every_seconds=0, every_steps=1)],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    rows: Any = Rows(batches(case.kind, int(os.environ.get("RANK", 0)), world_size))
    trainer.fit(module, rows, ckpt_path=resume, weights_only=False if resume else None)
    module.recorder.scores = score_episode(module.policy)
    if trainer.is_global_zero or module.policy.is_sharded:
        module.policy.export(folder / "policy")
    module.recorder.save(module, folder / "record.pt")


@torch.no_grad()
def score_episode(policy: Policy) -> torch.Tensor:
    """Log-probabilities that a policy gives one conversation; all ranks of a sharded policy call it together."""
    policy.eval()
    logprobs_BT: torch.Tensor = policy(one_episode(policy))[0]
    reshard(policy)
    return logprobs_BT


def one_episode(policy: Policy) -> TokenBatch:
    """A conversation with images."""
    return policy.collate([policy.conversation.encode(episodes(1)[0])])


def run_all(cases: Sequence[tuple[Any, ...]], strategy: str, world_size: int) -> None:
    """Run several cases on the same ranks in turn; each run has a case, a policy, a folder and maybe a checkpoint."""
    for case, policy, folder, *resume in cases:
        run(case, strategy, policy, folder, world_size, *resume)


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
