"""Two ranks learn what one rank learns, and neither is left waiting for the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from cv_lightning.rewards import TERMS
from cv_lightning.types import Group, RewardBreakdown, Rollouts, Sample
from modules import scoring
from modules.grpo import GRPOModule
from modules.optimizer import OptimizerConfig
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.sft import SFTModule
from tests.modules.helpers import episodes, noise, small_policy, train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="forks after CUDA has started")]

OPTIMIZER = OptimizerConfig(lr=1e-3)
TWO_RANKS: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}


class SaveWeights(Callback):
    """Each rank writes its weights at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")

    def weights(self, rank: int) -> torch.Tensor:
        state = torch.load(self.folder / f"{rank}.pt")
        return torch.cat([value.flatten() for value in state.values()])


def test_sft_on_two_ranks_is_sft_on_one(tmp_path: Path) -> None:
    """The mean is over the tokens of both ranks, although the ranks hold different numbers of tokens."""
    alone = SFTModule(small_policy(), optimizer=OPTIMIZER)
    train(alone, [episodes(4)])
    expected = torch.cat([value.flatten() for value in alone.state_dict().values()])
    halves = [episodes(4)[0::2], episodes(4)[1::2]]
    saved = SaveWeights(tmp_path)
    train(SFTModule(small_policy(), optimizer=OPTIMIZER, micro_batch_tokens=1), halves, callbacks=[saved], **TWO_RANKS)
    for rank in (0, 1):
        torch.testing.assert_close(saved.weights(rank), expected, atol=2e-5, rtol=0)


def test_masters_of_two_ranks_move_together(tmp_path: Path) -> None:
    """In bfloat16, gradients reach float32 masters through the copies; ranks exchange the masters' gradients."""
    alone = SFTModule(small_policy(dtype="bfloat16"), optimizer=OptimizerConfig(lr=1e-6))
    before = torch.cat([value.flatten() for value in alone.state_dict().values()]).float()
    saved = SaveWeights(tmp_path)
    halves = [episodes(4)[0::2], episodes(4)[1::2]]
    train(alone, halves, callbacks=[saved], **TWO_RANKS)
    first, second = saved.weights(0), saved.weights(1)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert (first != before).float().mean() > 0.5


def test_ranks_with_different_work_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(group: Group, *_: Any) -> list[RewardBreakdown]:
        """Only odd samples have a spread of rewards, so one of the ranks has nothing to learn from."""
        values = [float(int(group.sample.id) % 2 and index % 2) for index in range(len(group.trajectories))]
        return [RewardBreakdown({**dict.fromkeys(TERMS, 0.0), "accuracy": value}, value > 0) for value in values]

    monkeypatch.setattr(scoring, "score", score)
    saved = SaveWeights(tmp_path)
    module = GRPOModule(
        small_policy(),
        optimizer=OPTIMIZER,
        group_size=4,
        minibatches=2,
        micro_batch_tokens=1,
        policy_gradient=PolicyGradientConfig(kl_coefficient=0.0),
        rollout=RolloutConfig(max_turns=1, max_new_tokens=5, lane="pillow"),
    )
    before = torch.cat([value.flatten() for value in module.state_dict().values()])
    train(
        module, [[Sample(str(i), "Read.", (noise(84, 56, i),), "K")] for i in range(4)], callbacks=[saved], **TWO_RANKS
    )
    assert torch.equal(saved.weights(0), saved.weights(1))
    assert not torch.equal(saved.weights(0), before)


class SaveMetrics(Callback):
    """Rank 0 writes the metrics of the last step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.write_text(json.dumps({name: float(value) for name, value in trainer.callback_metrics.items()}))


class CorruptedElsewhere(GRPOModule):
    """The sampler of the last rank reports one log-probability of its longest sequence with an error of 5 nats."""

    def roll_out(self, *args: Any) -> Rollouts:
        rollouts = super().roll_out(*args)
        if self.global_rank == 1:
            longest = max((t.tokens for t in rollouts.trajectories), key=len)
            longest.logprobs[longest.is_trained.index(True)] -= 5.0
        return rollouts


def test_gap_of_one_rank_is_seen_and_metrics_are_over_the_tokens_of_both(tmp_path: Path) -> None:
    """One of two ranks has more tokens to learn from; means are over the tokens of both."""
    questions = [Sample(str(i), "Read.", (noise(84, 56, i),), "K") for i in range(2)]
    module = CorruptedElsewhere(
        small_policy(),
        group_size=4,
        micro_batch_tokens=1,
        rollout=RolloutConfig(max_turns=1, max_new_tokens=5, lane="pillow"),
    )
    saved = SaveMetrics(tmp_path / "metrics.json")
    train(module, [questions[:1], questions[1:]], callbacks=[saved], **TWO_RANKS)
    logged = json.loads(saved.path.read_text())
    assert logged["rl/logprob_gap"] == pytest.approx(5, abs=1e-3)
    assert 5 / 40 <= logged["rl/logprob_gap_mean"] < 5 / 8, "of 40 tokens at most on both ranks"
