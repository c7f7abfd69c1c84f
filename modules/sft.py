"""Supervised fine-tuning on recorded conversations."""

from __future__ import annotations

import torch

from cv_lightning.types import Trajectory
from modules.base import PolicyModule, StepOutput


class SFTModule(PolicyModule):
    """Imitates the assistant turns of recorded trajectories; everything the environment wrote is masked.

    The loss is the mean over the trained tokens of the whole batch on all ranks, however it is split into
    micro-batches. The arguments are those of `PolicyModule`.
    """

    def training_step(self, batch: list[Trajectory], batch_idx: int) -> StepOutput:
        """One optimizer step on a batch of recorded trajectories."""
        # Rows that a data module prepared already have tokens.
        sequences = [(row if row.tokens.ids else self.prepare_row(row)).tokens for row in batch]
        n_trained = torch.tensor(float(sum(sum(s.is_trained) for s in sequences)), device=self.device)
        divisor = self.global_sum(n_trained) / self.trainer.world_size
        total, n_computed = torch.zeros((), device=self.device), 0
        shortest = min(range(len(sequences)), key=lambda index: len(sequences[index]))
        # Ranks exchange gradients in every pass, so all make the same number of passes; an idle pass has weight 0.
        weighted = [(part or [shortest], float(bool(part))) for part in self.micro_batches(sequences)]
        with self.policy.rounded():
            for number, (part, weight) in enumerate(weighted, start=1):
                tokens = self.policy.pack([sequences[index] for index in part])
                n_computed += tokens.n_computed if weight else 0
                logprobs_BT, _ = self.policy(tokens, entropy="none")
                loss = -weight * logprobs_BT.sum() / divisor
                self.backward_part(loss, is_last=number == len(weighted))
                total += loss.detach()
        own = self.apply_gradients() | {"train/tokens": float(n_computed)}
        return {"metrics": self.measured(own, {"train/loss": total})}

    def prepare_row(self, row: Trajectory) -> Trajectory:  # type: ignore[override]
        """A recorded trajectory with its tokens; raises as `RowReader.episode` does."""
        return self.row_reader.episode(row)
