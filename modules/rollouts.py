"""Rollouts of a local policy: their sampling, their tool executor, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from cv_lightning.driver import AfterGroup, roll_out
from cv_lightning.errors import ConfigError
from cv_lightning.rewards import TERMS
from cv_lightning.rollout import Sampling
from cv_lightning.types import Group, Rollouts, Sample
from modules.advantages import has_spread
from modules.policy.policy import Policy
from modules.policy.token_batch import image_bytes
from modules.samplers.itself import Itself
from modules.samplers.sampler import Sampler
from sandbox import Limits, ToolExecutor
from sandbox.executor import LaneName
from sandbox.types import Exactness


@dataclass(frozen=True)
class RolloutConfig:
    """How trajectories are sampled.

    Attributes:
        max_turns: Maximum number of assistant turns in a trajectory.
        max_new_tokens: Longest turn, in tokens.
        sequences_at_once: Maximum number of trajectories whose keys and values are in memory at once; 0 samples a whole
            batch together, which is fastest. A group is split only if it is larger than this.
        temperature: Softmax temperature in training.
        evaluation_temperature: Softmax temperature in validation and test; 0 takes the most probable token.
        call_temperature: Softmax temperature inside tool calls, above 0; in evaluation only if `evaluation_temperature`
            is above 0. None: the same as outside calls. Thyme samples words at 1 and code near 0.
        lane: The executor's lane: "auto", "pillow", "kornia" or "confined".
        device: Device on which tool calls run as tensors if that is cheaper, see `sandbox.ToolExecutor`; None: the
            policy's device, if it is an accelerator.
        exactness: Exactness of tool calls that run as tensors: "exact" or "close", see `sandbox.ToolExecutor`.
        limits: Resources that one tool call may use.
    """

    max_turns: int = 4
    max_new_tokens: int = 1024
    sequences_at_once: int = 0
    temperature: float = 1.0
    evaluation_temperature: float = 0.0
    lane: LaneName = "auto"
    limits: Limits = field(default_factory=Limits)
    device: str | None = None
    exactness: Exactness = "exact"
    call_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.sequences_at_once < 0:
            raise ConfigError(f"rollout.sequences_at_once: expected 0 or more, got {self.sequences_at_once}")
        if self.call_temperature is not None and (self.call_temperature <= 0 or self.temperature <= 0):
            raise ConfigError(
                f"rollout.call_temperature: expected it and temperature above 0, got {self.call_temperature} and "
                f"{self.temperature}. At 0 only one token is possible, so it has no gradient."
            )

    def open_executor(self, policy_device: torch.device) -> ToolExecutor:
        """Start an executor with these settings, for a policy on `policy_device`."""
        device = self.device
        if device is None and self.lane in ("auto", "kornia") and policy_device.type != "cpu":
            device = str(policy_device)
        return ToolExecutor(lane=self.lane, limits=self.limits, device=device, exactness=self.exactness)


class Roller:
    """Rolls out a policy with one tool executor, which starts on first use.

    Args:
        policy: The policy.
        config: How trajectories are sampled.
        sampler: Samples the turns; None: the policy itself.
    """

    def __init__(self, policy: Policy, config: RolloutConfig, sampler: Sampler | None = None) -> None:
        self.policy = policy
        self.config = config
        self.sampler = Itself() if sampler is None else sampler
        if getattr(self.sampler, "policy", None) is not policy:  # another roller may share it
            self.sampler.attach(policy)
        self._executor: ToolExecutor | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: Future[Rollouts] | None = None
        self._stop: Future[None] | None = None
        self._step_of_version: dict[int, int] = {}

    def refresh(self, step: int = 0) -> None:
        """Give the sampler the policy's weights after `step` updates; all ranks call it together.

        Rollouts that run ahead end first, because they use the previous weights.
        """
        if self._ahead is not None:
            wait([self._ahead])
        self.sampler.refresh()
        if self.sampler.version is not None:
            self._step_of_version.setdefault(self.sampler.version, step)

    def staleness(self, groups: Sequence[Group], step: int) -> list[int]:
        """Number of updates that each token's weights lack at `step`; only tokens whose sampler reports its weights."""
        turns = (turn for group in groups for trajectory in group.trajectories for turn in trajectory.turns)
        return [step - self._step_of_version.get(version, step) for turn in turns for version in turn.versions or ()]

    def begin(self, job: Callable[[Future[None]], Rollouts]) -> None:
        """Begin to roll out in another thread, while this thread updates the policy: see `take`.

        Args:
            job: Rolls out and scores; it ends early if its future is done.
        """
        if self._thread is None:  # one thread for all, because tool workers may die with the thread that started them
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts ahead")
        self._stop = Future()
        self._ahead = self._thread.submit(job, self._stop)

    def take(self) -> Rollouts | None:
        """Wait for the rollouts that `begin` started, and return them; None if there are none."""
        ahead, self._ahead = self._ahead, None
        return None if ahead is None else ahead.result()

    def roll_out(
        self,
        samples: Sequence[Sample],
        group_size: int,
        temperature: float,
        seed: int,
        stop: Future[None] | None = None,
        max_turns: int | None = None,
        after_group: AfterGroup | None = None,
    ) -> list[Group]:
        """Sample `group_size` trajectories of each sample.

        Args:
            samples: P questions.
            group_size: G, trajectories of each.
            temperature: Softmax temperature.
            seed: Seed of the sampling.
            stop: Done if the trajectories are no longer needed.
            max_turns: Maximum number of turns of each trajectory; None takes the config's.
            after_group: Called with a group's number and the group as soon as all trajectories of a group have ended.
        """
        if self._executor is None:
            self._executor = self.config.open_executor(self.policy.device)
        at_once = self.config.sequences_at_once or len(samples) * group_size
        n_groups = max(1, at_once // group_size)
        is_divided = at_once < group_size
        groups: list[Group] = []
        call_temperature = self.config.call_temperature if temperature > 0 else None
        with self.sampler.speaking() as policy:
            for first in range(0, len(samples), n_groups):
                part = samples[first : first + n_groups]
                after_part = None if after_group is None or is_divided else _numbered_from(first, after_group)
                pieces: list[list[Group]] = []
                for done in range(0, group_size, at_once):
                    # The multiplier keeps the seeds of parts apart from those of other steps and ranks.
                    part_seed = (seed + (first * group_size + done) * 0x9E3779B97F4A7C15) % 2**63
                    sampling = Sampling(temperature, self.config.max_new_tokens, part_seed, call_temperature)
                    size = min(at_once, group_size - done)
                    options = (size, max_turns or self.config.max_turns, stop, after_part)
                    pieces.append(roll_out(part, policy, self._executor, sampling, *options))
                groups += [
                    Group(sample, [trajectory for group in of_sample for trajectory in group.trajectories])
                    for sample, *of_sample in zip(part, *pieces, strict=True)
                ]
                if is_divided and after_group is not None:
                    after_group(first, groups[first])
        return groups

    def rest(self) -> None:
        """Free device memory that only rollouts need."""
        self.sampler.rest()

    def close(self) -> None:
        """End rollouts that run ahead, the tool workers and the sampler."""
        if self._thread is not None and self._stop is not None:
            if not self._stop.done():
                self._stop.set_result(None)
            self._thread.shutdown()
            self._thread = self._ahead = None
        self.sampler.close()
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def _numbered_from(first: int, after_group: AfterGroup) -> AfterGroup:
    return lambda number, group: after_group(first + number, group)


def waited_for_tools(groups: Sequence[Group]) -> float:
    """Seconds that rollouts sampled together waited for tools: the longest total of any trajectory."""
    waits = (sum(turn.tools_s for turn in trajectory.turns) for group in groups for trajectory in group.trajectories)
    return max(waits, default=0.0)


def reward_totals(rollouts: Rollouts) -> Tensor:
    """Rewards [P, G] of P groups, on the host; NaN if a judge failed."""
    return torch.tensor([[breakdown.total for breakdown in of_group] for of_group in rollouts.breakdowns])


def rollout_metrics(rollouts: Rollouts, rewards_PG: Tensor) -> dict[str, Tensor | float]:
    """`reward/...`, `rollout/...` and the share of groups that teach nothing."""
    trajectories = rollouts.trajectories
    breakdowns = [breakdown for _, breakdown in rollouts.pairs]
    return {
        **{f"reward/{name}": fmean(b.terms[name] for b in breakdowns) for name in TERMS},
        "reward/total": rewards_PG.nanmean(),
        "rl/zero_variance_groups": (~has_spread(rewards_PG)).float().mean(),
        "rollout/accuracy": fmean(b.is_right is True for b in breakdowns),
        "rollout/tool_rate": fmean(t.n_calls > 0 for t in trajectories),
        "rollout/turns": fmean(len(t.turns) for t in trajectories),
        "rollout/sampled_tokens": sum(sum(t.tokens.is_trained) for t in trajectories),
        "rollout/image_mb": image_bytes(trajectories) / 1e6 / len(trajectories),
    }
