"""One step equals the plain computation, however it is split or shared; groups without spread do no harm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from cv_lightning.errors import ConfigError
from cv_lightning.rewards import TERMS
from cv_lightning.types import Group, RewardBreakdown, Rollouts, Sample, StopReason
from modules import scoring
from modules.base import StepOutput
from modules.grpo import GRPOModule
from modules.learned_sequences import distinct_sequences
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.sampler_correction import SamplerCorrection
from modules.samplers.replica import Replica
from tests.modules.helpers import FAMILIES, LORA, assert_same_gradients, gradients, noise, small_policy, train

ROLLOUT = RolloutConfig(max_turns=2, max_new_tokens=6, lane="pillow")
NO_KL = PolicyGradientConfig(kl_coefficient=0.0)


class Watched(GRPOModule):
    """Keeps the gradients and the share of each optimizer step, and does not take the step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"rollout": ROLLOUT, **kwargs})
        self.seen: list[dict[str, Tensor]] = []
        self.divisors: list[float] = []
        self.parts: list[int] = []
        self.rolled_out = Rollouts([], [])

    def training_step(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        output = super().training_step(batch, batch_idx)
        self.rolled_out = output["rollouts"]
        return output

    def _prepare(self, *args: Any) -> Any:
        prepared = super()._prepare(*args)
        self.divisors.append(float(prepared[1]))
        self.parts.append(len(prepared[0]))
        return prepared

    def apply_gradients(self) -> dict[str, Tensor | float]:
        self.seen.append(gradients(self.policy))
        self.policy.zero_grad()
        return {}

    def whole(self) -> dict[str, Tensor]:
        """The gradient of the whole batch, combined from its optimizer steps."""
        names = {name for seen in self.seen for name in seen}
        shares = [divisor / sum(self.divisors) for divisor in self.divisors]
        return {
            name: sum((seen[name] * share for seen, share in zip(self.seen, shares, strict=True)), torch.zeros(()))
            for name in names
        }


def samples(n: int = 3) -> list[Sample]:
    return [Sample(str(index), "Read.", (noise(84, 56, index),) * (1 + index % 2), "K7") for index in range(n)]


def paid(value: float) -> RewardBreakdown:
    return RewardBreakdown({**dict.fromkeys(TERMS, 0.0), "accuracy": value}, value > 0)


def by_length(group: Group, *_: Any) -> list[RewardBreakdown]:
    """Rewards that vary between rollouts of a random policy: a number computed from the text."""
    return [paid(float(sum(map(ord, t.turns[0].text)) % 5)) for t in group.trajectories]


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", by_length)


def advantages_of(module: Watched) -> list[float]:
    """Advantages by hand: reward minus mean, over standard deviation (unbiased) plus 1e-4."""
    found: list[float] = []
    for breakdowns in module.rolled_out.breakdowns:
        rewards = [breakdown.total for breakdown in breakdowns]
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
        found += [(reward - mean) / (deviation + 1e-4) for reward in rewards]
    return found


def plain_gradient(policy: Policy, module: Watched, kl_coefficient: float) -> dict[str, Tensor]:
    """GRPO without anything shared: one forward pass for each sampled trajectory, in a plain sum."""
    trajectories = module.rolled_out.trajectories
    n_tokens = sum(sum(t.tokens.is_trained) for t in trajectories)
    reference = small_policy_like(policy)
    loss = torch.zeros(())
    for trajectory, advantage in zip(trajectories, advantages_of(module), strict=True):
        batch = policy.collate([trajectory.tokens])
        logprobs = policy.token_logprobs(batch)[0][batch.is_trained_BT]
        old = batch.logprobs_BT[batch.is_trained_BT]
        with torch.no_grad():
            base_logprobs = reference.token_logprobs(batch)[0][batch.is_trained_BT]
        difference = base_logprobs - logprobs
        k3 = (difference.exp() - difference - 1).clamp(max=10)  # the large adapters of one family exceed 10
        loss = loss + (-advantage * (logprobs - old).exp() + kl_coefficient * k3).sum() / n_tokens
    policy.zero_grad()
    loss.backward()
    found = gradients(policy)
    policy.zero_grad()
    return found


def small_policy_like(policy: Policy) -> Policy:
    """The policy as it was built: the reference of a trained policy, and of one whose adapters are off."""
    return small_policy(policy.core.config.model_type)


def away(policy: Policy) -> Policy:
    """Move a policy away from its reference, so that the divergence has a gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


SPLITS = [(1, 0), (1, 300), (3, 150)]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_step_is_the_plain_computation_in_any_split(family: str, lora: dict[str, Any] | None) -> None:
    for minibatches, micro_batch_tokens in SPLITS if family == FAMILIES[0] else SPLITS[-1:]:
        config = PolicyGradientConfig(kl_coefficient=0.1)
        policy = small_policy(family, lora=lora)
        module = Watched(
            policy, group_size=4, minibatches=minibatches, micro_batch_tokens=micro_batch_tokens, policy_gradient=config
        )
        away(policy)
        trainer = train(module, [samples()])
        assert len(module.seen) == minibatches
        assert max(abs(advantage) for advantage in advantages_of(module)) > 0.5
        assert_same_gradients(module.whole(), plain_gradient(policy, module, 0.1))
        assert float(trainer.callback_metrics["rl/logprob_gap"]) < 1e-4
        assert float(trainer.callback_metrics["rl/kl"]) > 1e-4


def test_kl_is_measured_where_nothing_is_paid_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    module = Watched(policy, group_size=4, micro_batch_tokens=200, policy_gradient=NO_KL, measure_kl_every=1)
    away(policy)
    trainer = train(module, [samples()])
    assert float(trainer.callback_metrics["rl/kl"]) > 1e-4
    assert_same_gradients(module.whole(), plain_gradient(policy, module, 0.0))

    measured: list[bool] = []
    reference_logprobs = Policy.reference_logprobs

    def watched(self: Policy, *args: Any) -> Tensor:
        measured[-1] = True
        return reference_logprobs(self, *args)

    def step_begins(self: GRPOModule, *args: Any) -> Rollouts:
        measured.append(False)
        return roll_out(self, *args)

    roll_out = GRPOModule.roll_out
    monkeypatch.setattr(Policy, "reference_logprobs", watched)
    monkeypatch.setattr(GRPOModule, "roll_out", step_begins)
    train_steps(5, epochs=2, policy_gradient=NO_KL, measure_kl_every=2)
    assert measured == [True, False, True, False, True], "every other training step, whatever its optimizer steps"


@pytest.mark.parametrize(("family", "budget"), [("qwen2_5_vl", 0), ("qwen2_5_vl", 1), ("qwen3_5", 0)])
def test_sequences_that_share_no_prompt_are_counted(family: str, budget: int) -> None:
    """With a prompt above the budget, or with recurrent layers, each sequence has its own prompt."""
    module = Watched(small_policy(family), group_size=4, micro_batch_tokens=budget, policy_gradient=NO_KL)
    logged = train(module, [samples()]).callback_metrics
    moving = [t for t, each in zip(module.rolled_out.trajectories, advantages_of(module), strict=True) if each]
    groups = [[t for t in group.trajectories if t in moving] for group in module.rolled_out.groups]
    if budget or family == "qwen3_5":
        assert logged["rl/alone_sequences"] > 4
        assert logged["train/tokens"] == sum(len(t.tokens) for t in moving)
    else:
        assert logged["rl/alone_sequences"] == sum(len(group) == 1 for group in groups)
        n_prompts = sum((len(group) - 1) * group[0].tokens.is_trained.index(True) for group in groups if group)
        assert logged["train/tokens"] == sum(len(t.tokens) for t in moving) - n_prompts


class Corrupted(GRPOModule):
    """The sampler reports one log-probability of its longest sequence with an error of 5 nats."""

    def roll_out(self, *args: Any) -> Rollouts:
        rollouts = super().roll_out(*args)
        longest = max((t.tokens for t in rollouts.trajectories), key=len)
        longest.logprobs[longest.is_trained.index(True)] -= 5.0
        return rollouts


@pytest.mark.parametrize("micro_batch_tokens", [0, 1, 200])
def test_gap_is_seen_in_the_longest_sequence(micro_batch_tokens: int) -> None:
    module = Corrupted(small_policy(), group_size=4, rollout=ROLLOUT, micro_batch_tokens=micro_batch_tokens)
    trainer = train(module, [samples()])
    gap, mean, p999 = (float(trainer.callback_metrics[f"rl/logprob_gap{end}"]) for end in ("", "_mean", "_p999"))
    assert gap == p999 == pytest.approx(5, abs=1e-3), "fewer than a thousand tokens: the percentile is the largest"
    assert 5 / 200 < mean < 5 / 10


class SampledHotter(Watched):
    """The sampler is wrong on purpose: it samples at temperature 1.5, and the loss uses temperature 1."""

    def roll_out(self, samples: Sequence[Sample], group_size: int, temperature: float, seed: int) -> Rollouts:
        return super().roll_out(samples, group_size, 1.5 * temperature, seed)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_wrong_sampler_is_corrected(minibatches: int) -> None:
    """The weight of each token is trainer over sampler, here at most 1.1; the ratio in the clip is 1."""
    correction = SamplerCorrection(max_ratio=1.1)
    policy = small_policy()
    module = SampledHotter(
        policy, group_size=4, policy_gradient=NO_KL, sampler_correction=correction, minibatches=minibatches
    )
    trainer = train(module, [samples()])
    trajectories = module.rolled_out.trajectories
    n_tokens = sum(sum(t.tokens.is_trained) for t in trajectories)
    loss, weights = torch.zeros(()), []
    for trajectory, advantage in zip(trajectories, advantages_of(module), strict=True):
        batch = policy.collate([trajectory.tokens])
        logprobs = policy.token_logprobs(batch)[0][batch.is_trained_BT]
        ratio = (logprobs.detach() - batch.logprobs_BT[batch.is_trained_BT]).exp()
        weights.append(ratio.clamp(max=1.1))
        loss = loss - advantage * (weights[-1] * logprobs).sum() / n_tokens
    loss.backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(module.whole(), gradients(policy))
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert measured["rl/sampler_weight"] == pytest.approx(float(torch.cat(weights).mean()), rel=1e-4)
    assert 0.05 < measured["rl/sampler_beyond"] < 0.95
    assert measured["rl/clip_fraction"] == 0
    assert measured["rl/ratio"] == 1
    assert abs(measured["rl/trainer_logprob"] - measured["rl/sampler_logprob"]) > 1e-3
    assert measured["rl/logprob_gap"] > 0.05


def test_correction_of_the_policy_itself_changes_nothing() -> None:
    corrected = Watched(small_policy(), group_size=4, sampler_correction=SamplerCorrection())
    trainer = train(corrected, [samples()])
    plain = Watched(small_policy(), group_size=4)
    assert not [name for name in train(plain, [samples()]).callback_metrics if "sampler_" in name]
    assert_same_gradients(corrected.whole(), plain.whole())
    assert float(trainer.callback_metrics["rl/sampler_weight"]) == pytest.approx(1, abs=1e-5)


def test_correction_is_on_for_a_sampler_that_differs() -> None:
    """A policy that samples by itself, or through a replica of its own precision, samples what it scores."""
    for sampler, is_on in ((None, False), (Replica(), False), (Replica("bfloat16"), True)):
        module = GRPOModule(small_policy(), sampler=sampler)
        assert module.sampler_correction == (SamplerCorrection() if is_on else None)


@pytest.mark.parametrize("compares", [0, 1])
def test_rollouts_that_were_cut_off_teach_nothing(compares: int) -> None:
    """Every rollout here is cut off, so the filter leaves an empty loss, and the step does no harm."""
    module = Watched(
        small_policy(), group_size=4, policy_gradient=NO_KL, truncated="nothing", measure_kl_every=compares
    )
    train(module, [samples()])
    reasons = {trajectory.stop_reason for trajectory in module.rolled_out.trajectories}
    assert reasons == {StopReason.MAX_TOKENS}
    assert (module.divisors, module.parts) == ([0], [0])
    assert not module.seen[0]


def test_rollouts_that_were_not_cut_off_teach_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    roll_out = GRPOModule.roll_out

    def some_answered(self: GRPOModule, *args: Any) -> Rollouts:
        rollouts = roll_out(self, *args)
        for trajectory in rollouts.trajectories[::2]:
            trajectory.stop_reason = StopReason.ANSWERED
        return rollouts

    monkeypatch.setattr(GRPOModule, "roll_out", some_answered)
    policy = small_policy()
    module = Watched(policy, group_size=4, policy_gradient=NO_KL, truncated="nothing")
    train(module, [samples()])
    pairs = list(zip(module.rolled_out.trajectories, advantages_of(module), strict=True))[::2]
    assert module.divisors == [sum(sum(trajectory.tokens.is_trained) for trajectory, _ in pairs)]
    loss = torch.zeros(())
    for trajectory, advantage in pairs:
        loss = loss - advantage * policy.token_logprobs(policy.collate([trajectory.tokens]))[0].sum()
    (loss / module.divisors[0]).backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(module.whole(), gradients(policy))


def test_metrics_have_one_population_in_measured_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups without spread are computed if a KL is measured, but only the KL includes them."""

    def first_group_only(group: Group, *_: Any) -> list[RewardBreakdown]:
        return by_length(group) if group.sample.id == "0" else [paid(1.0)] * len(group.trajectories)

    monkeypatch.setattr(scoring, "score", first_group_only)
    names = [f"rl/{name}" for name in ("entropy", "ratio", "clip_fraction", "logprob_gap_mean", "logprob_gap")]
    found, entropies = [], []
    for every in (0, 1):
        module = Watched(
            small_policy(), group_size=4, micro_batch_tokens=200, policy_gradient=NO_KL, measure_kl_every=every
        )
        trainer = train(module, [samples()])
        assert ("rl/kl" in trainer.callback_metrics) == (every == 1)
        found.append([float(trainer.callback_metrics[name]) for name in names])
        moving = [
            trajectory
            for trajectory, advantage in zip(module.rolled_out.trajectories, advantages_of(module), strict=True)
            if advantage
        ]
        assert 0 < len(moving) < len(module.rolled_out.trajectories)
        batch = module.policy.collate([trajectory.tokens for trajectory in moving])
        with torch.no_grad():
            entropies.append(float(module.policy.token_logprobs(batch)[1][batch.is_trained_BT].mean()))
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert found[0][0] == pytest.approx(entropies[0], rel=1e-5)
    with torch.no_grad():
        everything = module.policy.collate([trajectory.tokens for trajectory in module.rolled_out.trajectories])
        of_all = float(module.policy.token_logprobs(everything)[1][everything.is_trained_BT].mean())
    assert of_all != pytest.approx(entropies[1], rel=1e-4), "the test can tell the populations apart"


def test_what_cannot_move_the_policy_is_left_out_of_the_work_and_not_of_the_mean() -> None:
    def first_group_only(group: Group, *_: Any) -> list[RewardBreakdown]:
        return by_length(group) if group.sample.id == "0" else [paid(1.0)] * len(group.trajectories)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "score", first_group_only)
        policy = small_policy()
        module = Watched(policy, group_size=4, micro_batch_tokens=1, policy_gradient=NO_KL)
        train(module, [samples()])
    assert module.parts[0] <= 4
    n_tokens = sum(sum(t.tokens.is_trained) for t in module.rolled_out.trajectories)
    assert module.divisors == [n_tokens]
    assert_same_gradients(module.whole(), plain_gradient(policy, module, 0.0))


def test_passes_for_the_sake_of_other_ranks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for n_passes in (0, 5):
        monkeypatch.setattr(GRPOModule, "global_max", lambda self, value, n=n_passes: max(value, n))
        module = Watched(small_policy(), group_size=4, micro_batch_tokens=2000)
        train(module, [samples()])
        found.append(module)
    assert found[0].parts[0] < found[1].parts[0] == 5
    assert found[0].divisors == found[1].divisors
    assert_same_gradients(found[1].whole(), found[0].whole())


def test_equal_trajectories_are_computed_once_and_weigh_as_many() -> None:
    """Greedy rollouts of one prompt are equal; those with equal advantages become one weighted sequence."""
    policy = small_policy()
    values = iter([1.0, 0.0, 0.0, 0.0] * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "score", lambda group, *_: [paid(next(values)) for _ in group.trajectories])
        greedy = RolloutConfig(max_turns=2, max_new_tokens=6, temperature=1e-4, lane="pillow")
        module = Watched(policy, group_size=4, policy_gradient=NO_KL, rollout=greedy)
        rollouts = module.roll_out(samples(), 4, 1e-4, 0)
    sequences = distinct_sequences([t.tokens for t in rollouts.trajectories], [1.5, -0.5, -0.5, -0.5] * 3)
    assert [(sequence.advantage, sequence.weight) for sequence in sequences] == [(1.5, 1), (-0.5, 3)] * 3


def weights(policy: Policy) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


def train_steps(steps: int, seed: int = 0, **changes: Any) -> tuple[GRPOModule, Trainer]:
    arguments: dict[str, Any] = {"group_size": 4, "minibatches": 2, "micro_batch_tokens": 200, "rollout": ROLLOUT}
    arguments |= {"optimizer": OptimizerConfig(lr=1e-3), "seed": seed, **changes}
    module = GRPOModule(small_policy(), **arguments)
    return module, train(module, [samples()] * steps)


def test_two_runs_give_the_same_numbers() -> None:
    (first, first_trainer), (second, second_trainer) = train_steps(3), train_steps(3)
    assert torch.equal(weights(first.policy), weights(second.policy))
    for name, value in first_trainer.callback_metrics.items():
        if not name.startswith("time/"):
            torch.testing.assert_close(value, second_trainer.callback_metrics[name], rtol=0, atol=0, msg=name)
    other, _ = train_steps(3, seed=1)
    assert not torch.equal(weights(first.policy), weights(other.policy))


def test_every_step_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    roll_out = GRPOModule.roll_out

    def watched(self: GRPOModule, batch: Sequence[Sample], group_size: int, temperature: float, seed: int) -> Rollouts:
        seeds.append(seed)
        return roll_out(self, batch, group_size, temperature, seed)

    monkeypatch.setattr(GRPOModule, "roll_out", watched)
    module = GRPOModule(small_policy(), group_size=2, rollout=ROLLOUT, minibatches=2)
    train(module, [samples(1)] * 2, max_epochs=2)
    assert len(seeds) == len(set(seeds)) == 4


def test_metrics_are_logged() -> None:
    _, trainer = train_steps(1, epochs=2)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {f"reward/{name}" for name in (*TERMS, "total")} <= logged.keys()
    assert {"rollout/accuracy", "rollout/tool_rate", "rollout/turns", "rollout/sampled_tokens"} <= logged.keys()
    assert {"rl/loss", "rl/kl", "rl/clip_fraction", "rl/entropy", "rl/logprob_gap"} <= logged.keys()
    assert {"rl/zero_variance_groups", "rl/distinct_sequences", "train/lr", "train/grad_norm"} <= logged.keys()
    assert {"time/rollout_s", "time/score_s", "time/update_s"} <= logged.keys()
    assert all(math.isfinite(value) for value in logged.values())
    assert logged["rl/logprob_gap"] < 1e-4, "measured before the first step, whatever the epochs"
    assert logged["rollout/tool_rate"] == 0
    assert trainer.global_step == 4


@pytest.mark.parametrize("config", [NO_KL, PolicyGradientConfig(kl_coefficient=0.01)], ids=["no KL", "KL"])
def test_batch_without_spread_takes_a_step_without_harm(
    config: PolicyGradientConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "score", lambda group, *_: [paid(1.0)] * len(group.trajectories))
    before = weights(small_policy())
    module, trainer = train_steps(2, policy_gradient=config, optimizer=OptimizerConfig(name="muon", lr=1e-3))
    assert float(trainer.callback_metrics["rl/zero_variance_groups"]) == 1
    assert trainer.global_step == 4
    assert weights(module.policy).isfinite().all()
    if config is NO_KL:
        assert torch.equal(weights(module.policy), before)
    assert all(math.isfinite(float(value)) for value in trainer.callback_metrics.values())


def test_judge_that_fails_leaves_its_trajectory_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(group: Group, *_: Any) -> list[RewardBreakdown]:
        first, *others = by_length(group)
        return [RewardBreakdown(first.terms, None), *others]

    monkeypatch.setattr(scoring, "score", score)
    module, trainer = train_steps(2)
    assert weights(module.policy).isfinite().all()
    assert all(math.isfinite(float(value)) for value in trainer.callback_metrics.values())


def test_groups_without_spread_are_sampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []

    def score(group: Group, *_: Any) -> list[RewardBreakdown]:
        """Sample "0" has a spread at once, "1" at the second attempt, "2" never."""
        scored.append(group.sample.id)
        has_spread = group.sample.id == "0" or (group.sample.id == "1" and scored.count("1") >= 2)
        return [paid(float(has_spread and index % 2)) for index in range(len(group.trajectories))]

    monkeypatch.setattr(scoring, "score", score)
    module = Watched(small_policy(), group_size=4, max_resamples=3)
    trainer = train(module, [samples()])
    assert scored == ["0", "1", "2", "1", "2", "2", "2"]
    assert [group.sample.id for group in module.rolled_out.groups] == ["0", "1", "2"]
    assert [len({b.total for b in breakdowns}) for breakdowns in module.rolled_out.breakdowns] == [2, 2, 1]
    assert float(trainer.callback_metrics["rl/zero_variance_groups"]) == pytest.approx(1 / 3)
    scored.clear()
    train_steps(1, max_resamples=0)
    assert scored == ["0", "1", "2"]


def pool_rewards(group: Group, *_: Any) -> list[RewardBreakdown]:
    """Sample 1 has a spread of 2, sample 3 of 6, sample 4 of 4, and all others of 0."""
    high = {"1": 2.0, "3": 6.0, "4": 4.0}.get(group.sample.id, 0.0)
    return [paid(high * (index % 2)) for index in range(len(group.trajectories))]


@pytest.mark.parametrize(
    ("keep_prompts", "n_rolled_out", "kept"),
    [
        (1, 2, ["1"]),  # 0 is flat, so 1 takes its place
        (2, 4, ["1", "3"]),  # 0 and 1, then 2 and 3: enough
        (3, 6, ["1", "3", "4"]),  # 0 to 2, then 3 to 5: three of six have a spread
        (4, 7, ["0", "1", "3", "4"]),  # the batch ends: the first flat group fills the gap
        (5, 7, ["0", "1", "2", "3", "4"]),
    ],
)
def test_new_prompts_are_taken_for_groups_without_spread(
    monkeypatch: pytest.MonkeyPatch, keep_prompts: int, n_rolled_out: int, kept: list[str]
) -> None:
    monkeypatch.setattr(scoring, "score", pool_rewards)
    module = Watched(small_policy(), group_size=2, keep_prompts=keep_prompts)
    trainer = train(module, [samples(7)])
    assert trainer.callback_metrics["rollout/prompts"] == n_rolled_out
    assert [group.sample.id for group in module.rolled_out.groups] == kept
    flat = {"0", "2"} & set(kept)
    assert float(trainer.callback_metrics["rl/zero_variance_groups"]) == pytest.approx(len(flat) / len(kept))


def test_of_several_groups_those_with_the_largest_spread_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", pool_rewards)
    module = Watched(small_policy(), group_size=2, keep_prompts=2)
    chosen = [samples(7)[index] for index in (0, 1, 3, 4)]  # a spread in one of the first two, then in both: 3 for 2
    train(module, [chosen])
    assert [group.sample.id for group in module.rolled_out.groups] == ["3", "4"]


def test_a_batch_without_more_prompts_and_two_ways_to_resample_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep_prompts: expected fewer than the 3 prompts"):
        train(Watched(small_policy(), group_size=2, keep_prompts=3), [samples()])
    with pytest.raises(ConfigError, match="max_resamples"):
        GRPOModule(small_policy(), keep_prompts=3, max_resamples=1)


def test_without_divergence_there_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no reference is needed")

    monkeypatch.setattr(Policy, "freeze_reference", refuse)
    monkeypatch.setattr(Policy, "reference_logprobs", refuse)
    _, trainer = train_steps(1, policy_gradient=NO_KL)
    assert "rl/kl" not in trainer.callback_metrics


def test_reference_is_no_part_of_the_checkpoint() -> None:
    with_reference, without = GRPOModule(small_policy()), GRPOModule(small_policy(), policy_gradient=NO_KL)
    assert with_reference.state_dict().keys() == without.state_dict().keys()


@pytest.mark.parametrize(
    "config",
    [
        PolicyGradientConfig(advantage="dr_grpo", aggregation="constant", constant_tokens=12, kl_coefficient=0),
        PolicyGradientConfig(advantage="rloo", aggregation="sequence_mean"),
        PolicyGradientConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4, entropy_coefficient=0.01),
        PolicyGradientConfig(surrogate="cispo", clip_high=4.0),
        PolicyGradientConfig(surrogate="sapo", aggregation="sequence_mean"),
    ],
    ids=["Dr.GRPO", "RLOO", "GSPO", "CISPO", "SAPO"],
)
def test_relatives_do_not_depend_on_the_split(config: PolicyGradientConfig) -> None:
    found = []
    for minibatches, micro_batch_tokens in ((1, 0), (1, 150), (2, 1)):
        split = {"minibatches": minibatches, "micro_batch_tokens": micro_batch_tokens}
        module = Watched(small_policy(), group_size=4, policy_gradient=config, **split)
        train(module, [samples()])
        found.append(module.whole())
    assert max(gradient.abs().max() for gradient in found[0].values()) > 1e-4
    assert_same_gradients(found[1], found[0])
    assert_same_gradients(found[2], found[0])


def test_reward_rises() -> None:
    """The arithmetic has the right sign: rewarded tokens, here those with even ids, become more probable."""
    module = GRPOModule(
        small_policy(), group_size=8, rollout=RolloutConfig(max_turns=1, max_new_tokens=4, lane="pillow"),
        optimizer=OptimizerConfig(lr=1e-2), policy_gradient=NO_KL,
    )  # fmt: skip

    def score(group: Group, *_: Any) -> list[RewardBreakdown]:
        return [paid(float(sum(token % 2 == 0 for token in t.tokens.ids[-4:]))) for t in group.trajectories]

    def probability() -> float:
        batch = module.policy.collate([module.policy.conversation.start(samples()[0])])
        with torch.no_grad():
            return float(module.policy.logits(module.policy._scored_hidden_states(batch)[0, -1]).softmax(-1)[::2].sum())

    before = probability()
    assert 0.2 < before < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "score", score)
        train(module, [samples()] * 20)
    assert probability() > 0.8


def test_validation_and_test_roll_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rolled_out: list[Rollouts] = []
    roll_out = GRPOModule.roll_out

    def watched(self: GRPOModule, *args: Any, **kwargs: Any) -> Rollouts:
        rolled_out.append(roll_out(self, *args, **kwargs))
        return rolled_out[-1]

    monkeypatch.setattr(GRPOModule, "roll_out", watched)
    module = GRPOModule(small_policy(), rollout=ROLLOUT)
    was_training = module.policy.training
    loader: Any = torch.utils.data.DataLoader([samples()], batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False, devices=1)
    (metrics,) = trainer.test(module, loader, verbose=False)
    assert metrics["test/accuracy/upright"] == 0
    assert module.policy.training == was_training
    assert [len(group.trajectories) for group in rolled_out[-1].groups] == [1, 1, 1]
    (metrics,) = trainer.validate(module, loader, verbose=False)
    assert metrics["val/accuracy/upright"] == 0
    assert module._roller._executor is None, "closed when it is over"


@pytest.mark.parametrize(
    "values",
    [
        {"group_size": 1},
        {"minibatches": 0},
        {"epochs": 0},
        {"micro_batch_tokens": -1},
        {"truncated": "some"},
        {"keep_prompts": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=name):
        GRPOModule(small_policy(), **values)  # type: ignore[arg-type]
