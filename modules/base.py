"""What SFT and RL share: the policy, the optimizer, exact gradient accumulation, and evaluation by rollouts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from cv_lightning.errors import CheckpointError
from cv_lightning.evaluation.metrics import TrajectoryMetrics
from cv_lightning.grading.judge import Judge
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.rollout import Sampling, rollout
from cv_lightning.types import Group, RewardBreakdown, Sample
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.policy import Policy
from sandbox import Limits, Observation, ToolExecutor, ToolRequest
from sandbox.executor import LaneName


@dataclass(frozen=True)
class RolloutConfig:
    """How trajectories are sampled.

    Attributes:
        max_turns: Assistant turns of a trajectory.
        max_new_tokens: Longest turn, in tokens.
        temperature: Softmax temperature in training.
        evaluation_temperature: The same in validation and test; 0 takes the most probable token.
        lane: The executor's lane: "auto", "pillow", "kornia" or "confined".
        device: Where tool calls run as tensors if that is cheaper, see `sandbox.ToolExecutor`; None: with the policy,
            if that is on an accelerator.
        limits: What one tool call may use.
    """

    max_turns: int = 4
    max_new_tokens: int = 1024
    temperature: float = 1.0
    evaluation_temperature: float = 0.0
    lane: LaneName = "auto"
    limits: Limits = field(default_factory=Limits)
    device: str | None = None

    def executor(self, policy_device: torch.device) -> ToolExecutor:
        """An executor of these settings for a policy on `policy_device`."""
        device = self.device
        if device is None and self.lane in ("auto", "kornia") and policy_device.type != "cpu":
            device = str(policy_device)
        return ToolExecutor(lane=self.lane, limits=self.limits, device=device)


class _TimedExecutor:
    """Adds up the seconds that rollouts wait for tools."""

    def __init__(self, executor: ToolExecutor) -> None:
        self.executor = executor
        self.seconds = 0.0

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        started = time.perf_counter()
        observations = self.executor.execute(requests)
        self.seconds += time.perf_counter() - started
        return observations


class PolicyModule(LightningModule):
    """A LightningModule around a `Policy`, evaluated by rollouts.

    Args:
        policy: The policy.
        optimizer: How parameters are updated.
        rollout: How trajectories are sampled.
        reward: How they are scored.
        judge: Asked about answers that the rules call wrong; None leaves it at the rules.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: OptimizerConfig | None = None,
        rollout: RolloutConfig | None = None,
        reward: RewardConfig | None = None,
        judge: Judge | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.optimizer_config = optimizer or OptimizerConfig()
        self.rollout_config = rollout or RolloutConfig()
        self.reward_config = reward or RewardConfig()
        self.judge = judge
        self.metrics = TrajectoryMetrics()
        self.last_trajectories: list[Group] = []
        self.last_breakdowns: list[list[RewardBreakdown]] = []
        self.tools_s = 0.0  # seconds that rollouts have waited for tools
        self._executor: ToolExecutor | None = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model by name, before torch lists every tensor."""
        stored, own = checkpoint["state_dict"], self.state_dict()
        for name in [*own, *stored]:
            if name not in own or name not in stored or own[name].shape != stored[name].shape:
                shapes = [tuple(part[name].shape) if name in part else "missing" for part in (stored, own)]
                raise CheckpointError(
                    f"The checkpoint is of another model: {name} is {shapes[0]} in the checkpoint, {shapes[1]} in the "
                    "policy. Use the config that wrote it, or another folder."
                )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave samples and trajectories on the host; their tensors are made on the device."""
        return batch

    # ---- optimisation ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """One optimizer, one schedule over `trainer.max_steps`."""
        optimizer, scheduler = make_optimizer(self.policy, self.optimizer_config, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def global_sum(self, value: Tensor) -> Tensor:
        """Sum of a scalar over all ranks: the divisor of a mean must not depend on how a batch was split."""
        if self.trainer.world_size == 1:
            return value
        gathered: Any = self.all_gather(value)
        total: Tensor = gathered.sum()
        return total

    def global_max(self, value: int) -> int:
        """The largest of a number over all ranks."""
        if self.trainer.world_size == 1:
            return value
        gathered: Any = self.all_gather(torch.tensor(value, device=self.device))
        return int(gathered.max())

    def apply_gradients(self) -> None:
        """Clip, step, step the schedule, clear, and log the norm and the learning rate."""
        optimizer: Any = self.optimizers()
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        limit = self.optimizer_config.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"))
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.log("train/grad_norm", norm)

    # ---- rollouts ----------------------------------------------------------------------------------------------------

    @property
    def executor(self) -> ToolExecutor:
        """The executor, started when it is first needed."""
        if self._executor is None:
            self._executor = self.rollout_config.executor(self.policy.device)
        return self._executor

    def teardown(self, stage: str) -> None:
        """Close the executor."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def roll_out(self, samples: Sequence[Sample], group_size: int, temperature: float, seed: int) -> None:
        """Sample and score trajectories; they are left in `last_trajectories` and `last_breakdowns`."""
        was_training = self.policy.training
        self.policy.eval()
        sampling = Sampling(temperature, self.rollout_config.max_new_tokens, seed)
        executor = _TimedExecutor(self.executor)
        self.last_trajectories = rollout(
            samples, self.policy, executor, sampling, group_size, self.rollout_config.max_turns
        )
        self.tools_s += executor.seconds
        self.last_breakdowns = [score(group, self.reward_config, self.judge) for group in self.last_trajectories]
        self.policy.train(was_training)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, batch: list[Sample], batch_idx: int) -> None:
        self.roll_out(batch, 1, self.rollout_config.evaluation_temperature, seed=batch_idx)
        trajectories = [trajectory for group in self.last_trajectories for trajectory in group.trajectories]
        self.metrics.update(trajectories, [breakdown for group in self.last_breakdowns for breakdown in group])

    def _log_evaluation(self, prefix: str) -> None:
        self.log_dict({f"{prefix}/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()

    def validation_step(self, batch: list[Sample], batch_idx: int) -> None:
        """Roll out validation samples."""
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`."""
        self._log_evaluation("val")

    def test_step(self, batch: list[Sample], batch_idx: int) -> None:
        """Roll out test samples."""
        self._evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test/...`."""
        self._log_evaluation("test")

    def predict_step(self, batch: list[Sample], batch_idx: int) -> list[dict[str, Any]]:
        """What the policy said about samples, in plain values; the trajectories are in `last_trajectories`."""
        self.roll_out(batch, 1, self.rollout_config.evaluation_temperature, seed=batch_idx)
        trajectories = [trajectory for group in self.last_trajectories for trajectory in group.trajectories]
        return [
            {
                "id": trajectory.sample.id,
                "answer": trajectory.answer,
                "turns": [turn.text for turn in trajectory.turns],
                "stop_reason": trajectory.stop_reason.value if trajectory.stop_reason else None,
            }
            for trajectory in trajectories
        ]
