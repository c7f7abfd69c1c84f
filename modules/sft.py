"""Supervised fine-tuning on recorded conversations."""

from __future__ import annotations

from typing import Any

import torch

from cv_lightning.errors import ConfigError
from cv_lightning.types import Trajectory
from modules.base import PolicyModule, StepOutput
from modules.policy.policy import Policy
from modules.policy.token_batch import by_length


class SFTModule(PolicyModule):
    """Imitates the assistant turns of recorded trajectories; everything the environment wrote is masked.

    The loss is the mean over the trained tokens of the whole batch on all ranks, however it is split into
    micro-batches.

    Args:
        policy: The policy.
        micro_batch_size: Sequences of a forward pass, of similar length; 0 takes the batch at once.
        kwargs: See `PolicyModule`.
    """

    def __init__(self, policy: Policy, *, micro_batch_size: int = 0, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        if micro_batch_size < 0:
            raise ConfigError(f"micro_batch_size: expected 0 or more but got {micro_batch_size}")
        self.micro_batch_size = micro_batch_size

    def training_step(self, batch: list[Trajectory], batch_idx: int) -> StepOutput:
        """One optimizer step on a batch of recorded trajectories."""
        # Rows that a data module prepared have their tokens.
        sequences = [(row if row.tokens.ids else self.prepare_row(row)).tokens for row in batch]
        n_trained = torch.tensor(float(sum(sum(s.is_trained) for s in sequences)), device=self.device)
        divisor = self.global_sum(n_trained) / self.trainer.world_size
        total = torch.zeros((), device=self.device)
        parts = by_length(sequences, self.micro_batch_size)
        # Ranks exchange in every pass, so each makes as many as the others; an idle one has weight 0.
        n_idle = self.global_max(len(parts)) - len(parts)
        weighted = [(part, 1.0) for part in parts] + [(parts[0][:1], 0.0)] * n_idle
        with self.policy.rounded():
            for number, (part, weight) in enumerate(weighted, start=1):
                logprobs_BT, _ = self.policy(self.policy.collate([sequences[index] for index in part]))
                loss = -weight * logprobs_BT.sum() / divisor
                self.backward_part(loss, is_last=number == len(weighted))
                total += loss.detach()
        own = self.apply_gradients() | {"train/tokens": float(sum(map(len, sequences)))}
        return {"metrics": self.measured(own, {"train/loss": total})}

    def prepare_row(self, row: Trajectory) -> Trajectory:  # type: ignore[override]
        """A recorded trajectory with its tokens; raises as `RowReader.episode`."""
        return self.row_reader.episode(row)
