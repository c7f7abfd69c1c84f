"""On-policy reinforcement learning from groups of rollouts (GRPO and its relatives).

One training step samples G trajectories of each prompt, scores them, computes advantages within the groups, and takes
one or more optimizer steps on exactly the sampled tokens. It departs from the published GRPO in two ways, neither of
which changes the gradient: equal trajectories of a group are computed once and weighted by their number, and sequences
that cannot move the policy (advantage 0, no KL, no entropy bonus) are not computed but still count in the mean.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from cv_lightning.types import Rollouts, Sample
from modules.advantages import group_advantages
from modules.base import PolicyModule, StepOutput
from modules.dynamic_sampling import oversample, resample
from modules.learned_sequences import Truncated, WeightedSequence, distinct_sequences, learned_tokens
from modules.policy.packed_row import prompt_groups
from modules.policy.policy import Entropy, Policy
from modules.policy.temperatures import CallTokens, token_temperatures
from modules.policy.token_batch import TokenBatch
from modules.policy_gradient import (
    PolicyGradientConfig,
    PolicyGradientLoss,
    loss_divisor,
    moves_policy,
    policy_gradient_loss,
)
from modules.rollouts import reward_totals, rollout_metrics
from modules.sampler_correction import SamplerCorrection, check_choice, gap_metrics


@dataclass(frozen=True)
class _MicroBatch:
    tokens: TokenBatch
    advantages_B: Tensor
    weight_B: Tensor
    reference_logprobs_BT: Tensor | None
    old_logprobs_BT: Tensor | None


class GRPOModule(PolicyModule):
    """Learns from the rewards of its own trajectories.

    Args:
        policy: The policy.
        group_size: Trajectories of each prompt, G.
        policy_gradient: Which policy gradient.
        sampler_correction: How tokens are weighted if the sampler's log-probabilities differ from the trainer's, for
            example because the sampler is an engine or uses another precision. None: the default correction if the
            sampler differs from the policy, otherwise no correction. With more than one optimizer step, a correction
            costs a forward pass.
        truncated: Which tokens of truncated rollouts (`max_tokens`, `context_full`) are learned: "all", "whole_replies"
            (all but the truncated reply) or "nothing" (DAPO's overlong filter). The rewards of truncated rollouts
            always count in the group's mean.
        minibatches: Optimizer steps per pass over the rollouts; the sequences are split evenly, with the groups in
            random order.
        epochs: Passes over the rollouts.
        measure_kl_every: Interval in steps at which `rl/kl` is measured if the policy gradient has no KL term; 0 never
            measures it. A measured step costs as much as a step with a KL term.
        max_resamples: Maximum number of times that groups without a spread of rewards are sampled again.
        keep_prompts: Number of prompts of a batch to learn from: oversample, filter and rank (PyVision-RL, arXiv
            2602.20739). This many prompts are rolled out at a time, until as many groups have a spread of rewards or
            the batch ends; the groups with the largest spread are kept. 0 keeps all.
        samples_ahead: Sample the next rollouts while the policy is updated. A step then learns from rollouts of the
            previous batch, sampled with weights that lack one step's updates. The first step learns from its own
            batch, which is therefore sampled twice. `sampler_correction` is on by default. Needs a sampler that is an
            engine.
        seed: Seed of the sampling; each rank and each step derives its own.
        kwargs: See `PolicyModule`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        group_size: int = 8,
        policy_gradient: PolicyGradientConfig | None = None,
        sampler_correction: SamplerCorrection | None = None,
        truncated: Truncated = "all",
        minibatches: int = 1,
        epochs: int = 1,
        measure_kl_every: int = 0,
        max_resamples: int = 0,
        keep_prompts: int = 0,
        samples_ahead: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, **kwargs)
        if group_size < 2:
            raise ConfigError(
                f"group_size: expected at least 2, got {group_size}. Advantages compare the rollouts of a group."
            )
        check_choice("truncated", truncated, Truncated)
        for name, value in (("minibatches", minibatches), ("epochs", epochs)):
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        at_least_0 = {
            "measure_kl_every": measure_kl_every,
            "max_resamples": max_resamples,
            "keep_prompts": keep_prompts,
        }
        for name, value in at_least_0.items():
            if value < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {value}")
        if keep_prompts and max_resamples:
            raise ConfigError(
                f"max_resamples: expected 0 with keep_prompts, which takes new prompts instead, got {max_resamples}."
            )
        self.group_size = group_size
        self.gradient_config = policy_gradient or PolicyGradientConfig()
        self._call_tokens = self._tokens_of_calls()
        if samples_ahead:
            self._check_ahead(max_resamples, keep_prompts)
        if sampler_correction is None and (samples_ahead or not self._roller.sampler.agrees):
            sampler_correction = SamplerCorrection()
        self.sampler_correction = sampler_correction
        self.truncated: Truncated = truncated
        self.minibatches = minibatches
        self.epochs = epochs
        self.measure_kl_every = measure_kl_every
        self.max_resamples = max_resamples
        self.keep_prompts = keep_prompts
        self.samples_ahead = samples_ahead
        self.seed = seed
        # Now, because a checkpoint that is loaded later must not become the reference.
        if self.gradient_config.kl_coefficient > 0 or measure_kl_every:
            self.policy.freeze_reference()

    # ---- one step ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        """Roll out, score, update."""
        with self.policy.kept_features():
            return self._step(batch)

    def _step(self, batch: list[Sample]) -> StepOutput:
        started = time.perf_counter()
        self._roller.refresh(self.global_step)
        rollouts = self._roll_out_ahead(batch) if self.samples_ahead else self._roll_out_now(batch)
        staleness = self._staleness(rollouts)
        rolled_out = time.perf_counter()
        rewards_PG = reward_totals(rollouts).to(self.device)
        config = self.gradient_config
        advantages_PG = group_advantages(rewards_PG, config.advantage, config.std_epsilon)
        learned = [learned_tokens(trajectory, self.truncated) for trajectory in rollouts.trajectories]
        sequences = distinct_sequences(learned, advantages_PG.flatten().tolist())
        idle = replace(min(sequences, key=lambda sequence: len(sequence.tokens)), weight=0)
        prepared = [self._prepare(part, idle) for part in self._split(sequences)]
        scored = time.perf_counter()
        of_update, of_optimizer = self._update(prepared)
        own = of_optimizer | {
            "rl/distinct_sequences": len(sequences),
            "rl/alone_sequences": _n_alone(prepared),
            "train/tokens": self.epochs * _n_tokens(prepared),
            "time/rollout_s": rolled_out - started,
            "time/tools_s": rollouts.tools_s,
            "time/score_s": scored - rolled_out,
            "time/update_s": time.perf_counter() - scored,
        }
        if rollouts.n_prompts is not None:
            own["rollout/prompts"] = rollouts.n_prompts
        of_all = rollout_metrics(rollouts, rewards_PG) | staleness | of_update
        return {"rollouts": rollouts, "metrics": self.measured(own, of_all)}

    def _roll_out_now(self, batch: list[Sample]) -> Rollouts:
        """The rollouts of this step, in which groups without a spread of rewards may have been replaced."""

        def roll_out(samples: Sequence[Sample], attempt: int) -> Rollouts:
            seed = self._sampling_seed(attempt)
            return self.roll_out(samples, self.group_size, self.rollout_config.temperature, seed)

        if self.keep_prompts:
            self._check_pool(len(batch))
            rollouts = oversample(batch, roll_out, self.keep_prompts)
        else:
            rollouts = resample(batch, roll_out, self.max_resamples)
        self._roller.rest()
        return rollouts

    def _check_pool(self, n_prompts: int) -> None:
        """Refuse batches with no prompts to choose from, in the first step only: an epoch's last batch may be small."""
        if self.global_step == 0 and n_prompts <= self.keep_prompts:
            raise ConfigError(
                f"keep_prompts: expected fewer than the {n_prompts} prompts of a batch, got {self.keep_prompts}. "
                "Raise data.batch_size, the number of prompts that a step may use."
            )

    # ---- rollouts ahead ----------------------------------------------------------------------------------------------

    def _check_ahead(self, max_resamples: int, keep_prompts: int) -> None:
        """Refuse `samples_ahead` with options that it does not support."""
        if self._roller.sampler.version is None:
            raise ConfigError(
                "samples_ahead: expected a sampler that is an engine, such as modules.samplers.VLLM, got "
                f"{type(self._roller.sampler).__name__}, which samples only between updates."
            )
        for name, value in (("max_resamples", max_resamples), ("keep_prompts", keep_prompts)):
            if value:
                raise ConfigError(f"{name}: expected 0 with samples_ahead, got {value}. Else the update would wait.")

    def _roll_out_ahead(self, batch: list[Sample]) -> Rollouts:
        """The rollouts that were sampled during the last update; starts those of `batch` with the current weights."""
        options = (batch, self.group_size, self.rollout_config.temperature)
        rollouts = self._roller.take()
        if rollouts is None:
            rollouts = self.roll_out(*options, self._sampling_seed(0))
        n_steps = self.trainer.max_steps
        if n_steps < 0 or self.global_step + self.minibatches * self.epochs < n_steps:
            seed = self._sampling_seed(1)
            self._roller.begin(lambda stop: self.roll_out(*options, seed, stop))
        return rollouts

    def _staleness(self, rollouts: Rollouts) -> dict[str, float]:
        """`rl/staleness`: number of updates that the weights lacked when they sampled a token, mean and maximum."""
        stale = self._roller.staleness(rollouts.groups, self.global_step)
        return {"rl/staleness": fmean(stale), "rl/staleness_max": max(stale)} if stale else {}

    def _sampling_seed(self, attempt: int) -> int:
        step = self.global_step * self.trainer.world_size + self.trainer.global_rank
        return ((self.seed * 1_000_003 + step) * 16 + attempt) % 2**63

    @property
    def _compares(self) -> bool:
        """Whether this step needs the reference policy."""
        if self.gradient_config.kl_coefficient > 0:
            return True
        # `global_step` counts optimizer steps; when a training step begins, all earlier training steps are complete.
        steps = self.global_step // (self.minibatches * self.epochs)
        return self.measure_kl_every > 0 and steps % self.measure_kl_every == 0

    # ---- preparing the update ----------------------------------------------------------------------------------------

    def _split(self, sequences: list[WeightedSequence]) -> list[list[WeightedSequence]]:
        """Minibatches of equal size, with the groups in random order; few groups are split between minibatches."""
        groups = prompt_groups([each.tokens for each in sequences], self.policy.core.config.image_token_id)
        generator = torch.Generator().manual_seed(self._sampling_seed(15))
        order = torch.randperm(len(groups), generator=generator).tolist()
        mixed = [sequences[member] for index in order for member in groups[index].members]
        bounds = [part * len(mixed) // self.minibatches for part in range(self.minibatches + 1)]
        return [mixed[start:end] for start, end in pairwise(bounds)]

    def _prepare(self, sequences: list[WeightedSequence], idle: WeightedSequence) -> tuple[list[_MicroBatch], Tensor]:
        """Micro-batches of one optimizer step with reference log-probabilities, and the step's divisor.

        Ranks exchange gradients in every backward pass, so all make the same number of passes; `idle`, of weight 0,
        stands in if a rank has fewer micro-batches.
        """
        config = self.gradient_config
        n_trained_B = torch.tensor([sum(sequence.tokens.is_trained) for sequence in sequences])
        weight_B = torch.tensor([float(sequence.weight) for sequence in sequences])
        divisor = self.global_sum(loss_divisor(n_trained_B, weight_B, config).to(self.device)) / self.trainer.world_size
        moves = moves_policy(torch.tensor([sequence.advantage for sequence in sequences]), config).tolist()
        computed = [
            sequence
            for sequence, is_moving in zip(sequences, moves, strict=True)
            if (is_moving or self._compares) and any(sequence.tokens.is_trained)
        ]
        parts = self.micro_batches([sequence.tokens for sequence in computed])
        return [self._micro_batch([computed[index] for index in part] or [idle]) for part in parts], divisor

    def _micro_batch(self, sequences: list[WeightedSequence]) -> _MicroBatch:
        tokens = self.policy.pack([sequence.tokens for sequence in sequences])
        reference, old = None, None
        if self._compares:
            reference = self.policy.reference_logprobs(tokens, self._temperature(tokens))
        if self.sampler_correction is not None and self.minibatches * self.epochs > 1:
            with torch.no_grad():
                old = self.policy(tokens, self._temperature(tokens), "none")[0]
        return _MicroBatch(
            tokens,
            torch.tensor([sequence.advantage for sequence in sequences], device=self.device),
            torch.tensor([float(sequence.weight) for sequence in sequences], device=self.device),
            reference,
            old,
        )

    def _tokens_of_calls(self) -> CallTokens | None:
        """The tags between which `call_temperature` applies; None if there is only one temperature."""
        if self.rollout_config.call_temperature is None:
            return None
        sampler = self._roller.sampler
        if not sampler.separates_calls:
            raise ConfigError(
                f"rollout.call_temperature: {type(sampler).__name__} samples a turn at one temperature. "
                "Leave it out, or let the policy or a Replica sample."
            )
        return CallTokens.of(self.policy.tokenizer)

    def _temperature(self, tokens: TokenBatch) -> float | Tensor:
        """The temperature at which the tokens were sampled: one for all, or one per token [B, T]."""
        config = self.rollout_config
        if self._call_tokens is None or config.call_temperature is None:
            return config.temperature
        return token_temperatures(tokens, self._call_tokens, config.temperature, config.call_temperature)

    # ---- the update --------------------------------------------------------------------------------------------------

    def _update(
        self, prepared: Sequence[tuple[list[_MicroBatch], Tensor]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        """One optimizer step per minibatch and epoch.

        Returns:
            `rl/...`, and the metrics of the last optimizer step. The loss is summed over the micro-batches of an
            optimizer step and averaged over the optimizer steps.
        """
        results: list[PolicyGradientLoss] = []
        of_optimizer: dict[str, Tensor | float] = {}
        n_first = len(prepared[0][0])
        for _ in range(self.epochs):
            for micro_batches, divisor in prepared:
                with self.policy.rounded():
                    results += [
                        self._backward(micro_batch, divisor, is_last=micro_batch is micro_batches[-1])
                        for micro_batch in micro_batches
                    ]
                of_optimizer = self.apply_gradients()
        if not results:
            return {}, of_optimizer
        metrics = self._token_means(results)
        metrics["rl/loss"] = torch.stack([result.loss for result in results]).sum() / (self.epochs * len(prepared))
        # The policy that sampled and the trained policy agree only before the first step.
        first = [result.gaps_M for result in results[:n_first]]
        gaps_M = self.of_all_ranks(torch.cat(first)) if first else torch.empty(0)
        return metrics | gap_metrics(gaps_M), of_optimizer

    def _token_means(self, results: Sequence[PolicyGradientLoss]) -> dict[str, Tensor]:
        """`rl/...` over the tokens of all micro-batches and ranks."""
        names = list(results[0].totals)
        totals_K2 = torch.stack([torch.stack([result.totals[name] for name in names]) for result in results]).sum(0)
        totals = zip(names, self.global_sum(totals_K2), strict=True)
        return {f"rl/{name}": total / number for name, (total, number) in totals if number > 0}

    def _backward(self, micro_batch: _MicroBatch, divisor: Tensor, is_last: bool) -> PolicyGradientLoss:
        entropy: Entropy = "measured" if self.is_logged else "none"
        if self.gradient_config.entropy_coefficient > 0:
            entropy = "learned"
        temperature = self._temperature(micro_batch.tokens)
        logprobs_BT, entropy_BT = self.policy(micro_batch.tokens, temperature, entropy)
        result = policy_gradient_loss(
            self.gradient_config,
            logprobs_BT=logprobs_BT,
            sampler_logprobs_BT=micro_batch.tokens.logprobs_BT,
            advantages_B=micro_batch.advantages_B,
            is_trained_BT=micro_batch.tokens.is_trained_BT,
            divisor=divisor,
            weight_B=micro_batch.weight_B,
            reference_logprobs_BT=micro_batch.reference_logprobs_BT,
            entropy_BT=None if entropy == "none" else entropy_BT,
            old_logprobs_BT=micro_batch.old_logprobs_BT,
            correction=self.sampler_correction,
        )
        self.backward_part(result.loss, is_last)
        return replace(result, loss=result.loss.detach())


def _n_tokens(prepared: Sequence[tuple[list[_MicroBatch], Tensor]]) -> int:
    """Tokens that one pass of the update computes, without padding."""
    return sum(micro.tokens.n_computed for micro_batches, _ in prepared for micro in micro_batches)


def _n_alone(prepared: Sequence[tuple[list[_MicroBatch], Tensor]]) -> int:
    """Number of sequences whose prompt is computed for them alone."""
    return sum(
        micro.tokens.n_alone for micro_batches, _ in prepared for micro in micro_batches if bool(micro.weight_B.any())
    )
