"""Code shared by SFT and RL: the policy, the optimizer, exact gradient accumulation, and evaluation by rollouts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, TypedDict

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from cv_lightning.cli.checkpoints import refuse_other_model
from cv_lightning.errors import ConfigError, ConversationError
from cv_lightning.evaluation.metrics import TrajectoryMetrics
from cv_lightning.grading.judge import Judge
from cv_lightning.rewards import RewardConfig
from cv_lightning.types import Rollouts, Sample, TokenSequence
from modules.host_memory import keep_freed_memory
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.micro_batches import packed_micro_batches, padded_micro_batches
from modules.policy.policy import Policy
from modules.policy.rows import RowReader
from modules.policy.shards import whole
from modules.policy.vocabulary import environment_ids
from modules.rollouts import Roller, RolloutConfig, waited_for_tools
from modules.samplers.sampler import Sampler
from modules.scoring import Scoring
from modules.sharding.shard import reduce_gradients, shard
from modules.sharding.strategy import ShardedStrategy


class StepOutput(TypedDict, total=False):
    """The output of a step, which Lightning passes to `on_..._batch_end` of the callbacks.

    Attributes:
        rollouts: The sampled trajectories and their rewards; absent from a step without rollouts.
        metrics: Metrics of a training step. Callbacks add their own; the module logs all of them once.
    """

    rollouts: Rollouts
    metrics: dict[str, float]


class _CloseOnError(Callback):
    """Calls a module's `teardown` if a stage fails; Lightning calls it only after a stage that succeeds."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        pl_module.teardown("")


class PolicyModule(LightningModule):
    """A LightningModule around a `Policy`, evaluated by rollouts.

    Args:
        policy: The policy.
        optimizer: How parameters are updated.
        rollout: How trajectories are sampled.
        reward: How trajectories are scored.
        judge: Asked about answers that the rules call wrong; None: only the rules decide.
        sampler: Samples the turns of rollouts; None: the policy itself.
        micro_batch_tokens: Tokens of a forward pass of an update. Sequences that share a prompt stay together if they
            fit; a longer sequence is computed alone. 0 computes everything at once.
        micro_batch_size: Removed; use `micro_batch_tokens`.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: OptimizerConfig | None = None,
        rollout: RolloutConfig | None = None,
        reward: RewardConfig | None = None,
        judge: Judge | None = None,
        sampler: Sampler | None = None,
        micro_batch_tokens: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if micro_batch_size is not None:
            raise ConfigError(
                f"micro_batch_size: expected micro_batch_tokens instead, got {micro_batch_size}. Give the number of "
                "tokens of a forward pass, e.g. micro_batch_tokens: 32768."
            )
        if micro_batch_tokens < 0:
            raise ConfigError(f"micro_batch_tokens: expected 0 or more, got {micro_batch_tokens}")
        self.micro_batch_tokens = micro_batch_tokens
        self.automatic_optimization = False
        self.policy = policy
        self.optimizer_config = optimizer or OptimizerConfig()
        self.rollout_config = rollout or RolloutConfig()
        self.reward_config = reward or RewardConfig()
        self.judge = judge
        self.metrics = TrajectoryMetrics()
        self._roller = Roller(policy, self.rollout_config, sampler)
        self._n_left_out = 0

    def configure_model(self) -> None:
        """Load deferred weights, and shard the policy if the strategy does; Lightning calls it in every stage."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is None:
            self.policy.load_deferred(self.trainer.strategy.root_device)
        elif not self.policy.is_sharded:
            shard(self.policy, mesh["data_parallel"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model by name, before torch lists every tensor."""
        if "state_dict" not in checkpoint:  # a sharded strategy has loaded it
            return
        stored, own = checkpoint["state_dict"], self.state_dict()
        shapes = [{name: tuple(value.shape) for name, value in part.items()} for part in (stored, own)]
        refuse_other_model(*shapes)

    # ---- rows --------------------------------------------------------------------------------------------------------

    @cached_property
    def row_reader(self) -> RowReader:
        """Checks which rows the policy can answer or learn from."""
        policy = self.policy
        ids = environment_ids(policy.tokenizer, policy.conversation.end_of_turn_id, policy.pad_id)
        return RowReader(policy.conversation, ids)

    def prepare_row(self, row: Sample) -> Sample:
        """Prepare a training row, in a data worker; raises as `RowReader.question` does if the row must be left out."""
        return self.row_reader.question(row)

    def _usable(self, batch: Sequence[Sample]) -> list[Sample]:
        """The samples that the policy can answer; a warning names each sample that is left out."""
        usable = []
        for sample in batch:
            try:
                usable.append(self.row_reader.question(sample))
            except ConversationError as error:
                warnings.warn(f"Left out a row. {error}", UserWarning, stacklevel=2)
        return usable

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave samples and trajectories on the host; their tensors are made on the device."""
        return batch

    # ---- optimization ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make the trained weights float32, which `fit` needs, before a checkpoint is loaded into them."""
        self._check_strategy()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if stage != "fit":
            return
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ConfigError(
                f"trainer.precision: expected 32-true or bf16-mixed, got {self.trainer.precision}. Leave it out and "
                "set policy.dtype: bfloat16, which computes in bfloat16 over float32 weights."
            )
        self.policy.prepare_training()

    def _check_strategy(self) -> None:
        """Refuse strategies that would fail later or compute something else."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, ShardedStrategy | DDPStrategy | SingleDeviceStrategy):
            raise ConfigError(
                "trainer.strategy: expected auto, ddp or modules.sharding.ShardedStrategy, got "
                f"{type(strategy).__name__}. Add --config experiments/sharded.yaml, which shards any config."
            )

    def configure_optimizers(self) -> Any:
        """One optimizer, one schedule over `trainer.max_steps`."""
        optimizer, scheduler = make_optimizer(self.policy, self.optimizer_config, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def global_sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all ranks: the divisor of a mean must not depend on how a batch was split."""
        if self.trainer.world_size == 1:
            return value
        gathered: Any = self.all_gather(value)
        total: Tensor = gathered.sum(0)
        return total

    def global_max(self, value: int) -> int:
        """Maximum of a number over all ranks."""
        if self.trainer.world_size == 1:
            return value
        gathered: Any = self.all_gather(torch.tensor(value, device=self.device))
        return int(gathered.max())

    def of_all_ranks(self, values_M: Tensor) -> Tensor:
        """Gather the values of all ranks in one vector, rank after rank; ranks may have different numbers of values."""
        if self.trainer.world_size == 1:
            return values_M
        padded = torch.nn.functional.pad(values_M, (0, self.global_max(len(values_M)) - len(values_M)))
        counts_R: Any = self.all_gather(torch.tensor(len(values_M), device=values_M.device))
        gathered_RM: Any = self.all_gather(padded)
        is_value_RM = torch.arange(len(padded), device=values_M.device) < counts_R[:, None]
        values: Tensor = gathered_RM[is_value_RM]
        return values

    def micro_batches(self, sequences: Sequence[TokenSequence]) -> list[list[int]]:
        """Indices of sequences that are computed together; all ranks make the same number, so some may be empty."""
        if not self.policy.can_pack:
            return padded_micro_batches(sequences, self.micro_batch_tokens, self.global_max)
        image_token_id = int(self.policy.core.config.image_token_id)
        return packed_micro_batches(sequences, self.micro_batch_tokens, image_token_id, self.global_max)

    def backward_part(self, loss: Tensor, is_last: bool) -> None:
        """Backward pass of a micro-batch; shards exchange the gradients of a step in its last backward pass.

        Args:
            loss: The micro-batch's part of the step's loss.
            is_last: Whether `apply_gradients` follows.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            reduce_gradients(self.policy, is_last or strategy.reduce_each_micro_batch)
        self.manual_backward(loss)

    def apply_gradients(self) -> dict[str, Tensor | float]:
        """Clip, step, step the schedule, clear; returns the norm before clipping and the learning rate."""
        optimizer: Any = self.optimizers()
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        limit = self.optimizer_config.max_grad_norm
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf")))
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return {"train/lr": rate, "train/grad_norm": norm}

    # ---- logging -----------------------------------------------------------------------------------------------------

    def measured(self, own: Mapping[str, Tensor | float], of_all: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Collect the metrics of a training step; monitors get them at once, loggers at the end of the step.

        Args:
            own: Scalars of this rank.
            of_all: Scalars to average over ranks; every rank has the same names.

        Returns:
            All metrics as floats.
        """
        metrics: dict[str, float] = {}
        for scalars, are_of_all in ((own, False), (of_all, True)):
            if not scalars:
                continue
            values = torch.stack(
                [torch.as_tensor(value, dtype=torch.float32).to(self.device) for value in scalars.values()]
            )
            if are_of_all:
                values = self.trainer.strategy.reduce(values, reduce_op="mean")
            metrics |= dict(zip(scalars, values.tolist(), strict=True))
        show_monitors(self.trainer, metrics)
        return metrics

    @property
    def is_logged(self) -> bool:
        """Whether the loggers get the metrics of this step; always True, for callbacks, if there is no logger."""
        trainer: Any = self.trainer  # its stubs lack `log_every_n_steps`
        step, every = trainer.fit_loop.total_batch_idx, trainer.log_every_n_steps
        return not trainer.loggers or bool(every and (step + 1) % every == 0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Send the step's metrics to the loggers, after the callbacks added theirs.

        Lightning's own logging repeats the last value of a metric in every step that does not define it.
        """
        metrics: dict[str, float] = outputs["metrics"]
        left_out = getattr(self.trainer.train_dataloader, "left_out", None)
        if left_out is not None:
            metrics["data/left_out"] = float(self.global_sum(torch.tensor(float(len(left_out)), device=self.device)))
        show_monitors(self.trainer, metrics)
        trainer: Any = self.trainer  # its stubs lack `log_every_n_steps`
        if self.is_logged:
            step = trainer.fit_loop.total_batch_idx
            values = torch.tensor([*metrics.values()], dtype=torch.float32)
            logged = dict(zip(metrics, values.tolist(), strict=True))
            for logger in trainer.loggers:
                logger.log_metrics(logged | {"epoch": trainer.current_epoch}, step)
                logger.save()

    # ---- rollouts ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Give the sampler the current weights."""
        self._roller.refresh(self.global_step)

    def on_test_epoch_start(self) -> None:
        """Give the sampler the current weights."""
        self._roller.refresh(self.global_step)

    def roll_out(
        self,
        samples: Sequence[Sample],
        group_size: int,
        temperature: float,
        seed: int,
        stop: Future[None] | None = None,
        max_turns: int | None = None,
    ) -> Rollouts:
        """Sample `group_size` trajectories of each sample and score them; see `Roller.roll_out`."""
        with Scoring(self.reward_config, self.judge) as scoring:
            groups = self._roller.roll_out(samples, group_size, temperature, seed, stop, max_turns, scoring.begin)
            return Rollouts(groups, scoring.breakdowns(), waited_for_tools(groups))

    def roll_out_without_tools(self, samples: Sequence[Sample], seed: int) -> Rollouts:
        """Sample one trajectory of each sample at the evaluation temperature: one turn that cannot begin a call."""
        with self.policy.without_tools():
            return self.roll_out(samples, 1, self.rollout_config.evaluation_temperature, seed, max_turns=1)

    def configure_callbacks(self) -> list[Callback]:
        """Add the callback that closes the rollouts' executor, threads and engine after an error."""
        return [_CloseOnError()]

    def teardown(self, stage: str) -> None:
        """Close the executor and the sampler."""
        self._roller.close()

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        usable = self._usable(batch)
        self._n_left_out += len(batch) - len(usable)
        rollouts = self.roll_out(usable, 1, self.rollout_config.evaluation_temperature, seed=batch_idx)
        self.metrics.update(rollouts.trajectories, [breakdown for _, breakdown in rollouts.pairs])
        return {"rollouts": rollouts}

    def _log_evaluation(self, prefix: str) -> None:
        self.log_dict({f"{prefix}/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()
        self.log(f"data/left_out/{prefix}", float(self._n_left_out), sync_dist=True, reduce_fx="sum")
        self._n_left_out = 0

    def validation_step(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        """Roll out validation samples."""
        return self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`."""
        self._log_evaluation("val")

    def test_step(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        """Roll out test samples."""
        return self._evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test/...`."""
        self._log_evaluation("test")


def show_monitors(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Let callbacks such as early stopping read the metrics of a step; Lightning's `log` is slower."""
    values = torch.tensor([*metrics.values()], dtype=torch.float32)
    trainer.callback_metrics.update(zip(metrics, values, strict=True))
