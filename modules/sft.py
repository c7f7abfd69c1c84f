"""Supervised fine-tuning on recorded conversations."""

from __future__ import annotations

from typing import Any

import torch

from cv_lightning.errors import ConfigError, DataError
from cv_lightning.types import TokenSequence, Trajectory
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
        self._banned_ids: set[int] | None = None

    def training_step(self, batch: list[Trajectory], batch_idx: int) -> StepOutput:
        """One optimizer step on a batch of recorded trajectories."""
        sequences = [self._encode(trajectory) for trajectory in batch]
        n_trained = torch.tensor(float(sum(sum(s.is_trained) for s in sequences)), device=self.device)
        divisor = self.global_sum(n_trained) / self.trainer.world_size
        total = torch.zeros((), device=self.device)
        with self.policy.rounded():
            for part in by_length(sequences, self.micro_batch_size):
                logprobs_BT, _ = self.policy(self.policy.collate([sequences[index] for index in part]))
                loss = -logprobs_BT.sum() / divisor
                self.manual_backward(loss)
                total += loss.detach()
        own = self.apply_gradients() | {"train/tokens": float(sum(map(len, sequences)))}
        return {"metrics": self.measured(own, {"train/loss": total})}

    def _encode(self, trajectory: Trajectory) -> TokenSequence:
        sequence = self.policy.conversation.encode(trajectory)
        if not any(sequence.is_trained):
            raise DataError(f"Sample {trajectory.sample.id!r}: the conversation holds no assistant turn to learn from.")
        self._check_calls(trajectory)
        self._check_targets(trajectory, sequence)
        return sequence

    def _check_calls(self, trajectory: Trajectory) -> None:
        """A policy that learns calls which its own rollouts cannot read would learn nothing but errors."""
        toolbox = self.policy.conversation.toolbox
        for turn in trajectory.turns:
            call = turn.reply.call
            if call is None or call.fault is not None or not turn.is_trained:
                continue
            read = self.policy.conversation.read_reply(turn.text, trajectory.images).call
            if read is None or read.fault is not None:
                raise ConfigError(
                    f"Sample {trajectory.sample.id!r}: a turn calls {call.name!r}, which is no tool of the policy "
                    f"(toolbox: {toolbox.kind}). Give the policy and the data the same toolbox."
                )
            if read.code != call.code:
                raise ConfigError(
                    f"Sample {trajectory.sample.id!r}: a turn's box means {call.code!r} in the data and {read.code!r} "
                    f"to the policy (coordinates: {toolbox.coordinates}). Give both the same toolbox."
                )

    def _check_targets(self, trajectory: Trajectory, sequence: TokenSequence) -> None:
        """The policy cannot write the environment's tokens; a turn that holds one would have an infinite loss."""
        if self._banned_ids is None:
            self._banned_ids = set(self.policy.is_banned_V.nonzero().flatten().tolist())
        for token_id, is_trained in zip(sequence.ids, sequence.is_trained, strict=True):
            if is_trained and token_id in self._banned_ids:
                raise DataError(
                    f"Sample {trajectory.sample.id!r}: an assistant turn holds "
                    f"{self.policy.tokenizer.decode([token_id])!r}, which only the environment writes. "
                    "Remove it from the text."
                )
