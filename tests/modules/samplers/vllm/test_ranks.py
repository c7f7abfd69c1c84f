"""Two processes and one engine, a fake: the first process talks to it, and both provide the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from safetensors.torch import load_file

from modules import scoring
from modules.grpo import GRPOModule
from modules.policy.shards import is_first_process
from modules.rollouts import RolloutConfig
from modules.samplers.vllm.launch import Launch
from modules.samplers.vllm.sampler import VLLM
from modules.samplers.vllm.weights import parts
from tests.modules.helpers import LORA, small_policy
from tests.modules.samplers.vllm.helpers import fake_environment, pids_of
from tests.modules.samplers.vllm.test_sampler import PATIENCE
from tests.modules.sharding.helpers import Rows, on_ranks, score_by_tokens
from tests.modules.sharding.runs import STRATEGIES, batches

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "adapters": {"lora": LORA},
    "sums": {"lora": {**LORA, "modules_to_save": ["lm_head"]}},
}


class Brought(Callback):
    """After training, sends the engine the weights once more, and saves the received weights."""

    def __init__(self, sampler: VLLM, folder: Path) -> None:
        self.sampler = sampler
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.sampler.refresh()
        pl_module.policy.export(self.folder / "policy") if is_first_process() or pl_module.policy.is_sharded else None
        if not is_first_process():
            return
        got: dict[str, torch.Tensor] = {}
        files = [*(self.sampler._folder / "weights").glob("*.safetensors")]
        if pl_module.policy.is_lora and self.sampler._uses_adapters:
            name = self.sampler._engine.weights.current().model  # type: ignore[union-attr]
            files = [*(self.sampler._folder / "adapters" / name).glob("*.safetensors")]
        for path in files:
            got |= load_file(path)
        torch.save(got, self.folder / "got.pt")
        torch.save(self.sampler.version, self.folder / "version.pt")


def train_with_engine(strategy: str, kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    scoring.score = score_by_tokens  # type: ignore[assignment]
    sampler = VLLM(launch=Launch(str(folder / "environment"), str(folder / "engine")), patience=PATIENCE)
    deferred = {"deferred": True} if strategy == "sharded" else {}
    policy = small_policy(source=str(folder / "start"), **KINDS[kind], **deferred)
    rollout = RolloutConfig(max_turns=1, max_new_tokens=6, lane="pillow")
    module = GRPOModule(policy, group_size=2, rollout=rollout, sampler=sampler)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=STRATEGIES[strategy](),
        max_steps=2,
        callbacks=[Brought(sampler, folder)],
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    rows: Any = Rows(batches("rl", trainer.global_rank, 2))
    trainer.fit(module, rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_the_engine_gets_the_weights_of_all_processes(strategy: str, kind: str, tmp_path: Path) -> None:
    fake_environment(tmp_path / "environment")
    small_policy().export(tmp_path / "start")
    on_ranks(2, train_with_engine, strategy, kind, tmp_path)
    got = torch.load(tmp_path / "got.pt")
    assert torch.load(tmp_path / "version.pt") == (4 if kind == "adapters" else 3)
    if kind == "adapters":
        expected = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    else:
        exported = small_policy(source=str(tmp_path / "policy"))
        expected = {name: tensor for part in parts(exported, torch.float32, False) for name, tensor in part}
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, msg=lambda said, name=name: f"{name}: {said}")
    assert not pids_of(tmp_path)
