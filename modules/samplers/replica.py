"""A whole copy of the policy on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy
from modules.policy.shards import free_memory, give_memory, hollow, whole
from modules.samplers.sampler import Sampler


class Replica(Sampler):
    """Samples with a whole copy, which is gathered from the shards tensor by tensor and takes no part in training.

    A rollout then exchanges nothing between ranks. The copy takes 2 bytes (bfloat16) or 4 bytes (float32) per
    parameter on every device.

    Args:
        dtype: Dtype in which the copy is held and computes; None takes `policy.dtype`. With another dtype, the
            sampler's log-probabilities differ from the trainer's.
    """

    separates_calls = True

    def __init__(self, dtype: Literal["float32", "bfloat16"] | None = None) -> None:
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self._network: Policy | None = None
        self._has_weights = False

    def attach(self, policy: Policy) -> None:
        """Copy the structure; `refresh` copies the weights."""
        super().attach(policy)
        dtype = self.dtype or policy.dtype
        self.agrees = dtype == policy.dtype
        self._network = policy.companion(hollow(policy.model, dtype), dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Gather the parameters: all of them the first time, later only the trained ones."""
        network = self._network
        if network is None:
            raise ValueError("Call attach() before refresh()")
        if not self._has_weights:
            give_memory(network.model, self.policy.device)
            network.model.to(self.policy.device)
            network.causal.tie_weights()
        for original, copied in zip(self.policy.model.parameters(), network.model.parameters(), strict=True):
            if original.requires_grad or not self._has_weights:
                copied.copy_(whole(original.detach().to(copied.dtype)))
        self._has_weights = True

    @contextmanager
    def speaking(self) -> Iterator[SamplingPolicy]:
        """The copy, with the policy's current conversation and banned tokens."""
        if self._network is None or not self._has_weights:
            raise ValueError("Call refresh() before speaking()")
        self._network.conversation, self._network.is_banned_V = self.policy.conversation, self.policy.is_banned_V
        yield self._network

    def rest(self) -> None:
        """Free the copy's memory; gathering it again costs less than the forward pass of a layer."""
        self.close()

    def close(self) -> None:
        """Free the copy's memory."""
        if self._network is not None and self._has_weights:
            free_memory(self._network.model)
            self._has_weights = False
