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

    A rollout then exchanges nothing between ranks. The copy takes 2 bytes (bfloat16) or 4 of each parameter on every
    device.

    Args:
        dtype: What the copy is held in and computes in; None takes `policy.dtype`. With another one the sampler's
            log-probabilities differ from the trainer's.
    """

    separates_calls = True

    def __init__(self, dtype: Literal["float32", "bfloat16"] | None = None) -> None:
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self._network: Policy | None = None
        self._has_weights = False

    def attach(self, policy: Policy) -> None:
        """Copy the structure; the weights follow."""
        super().attach(policy)
        dtype = self.dtype or policy.dtype
        self.agrees = dtype == policy.dtype
        self._network = policy.companion(hollow(policy.model, dtype), dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Gather the parameters: at first all, later those that are trained."""
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
        """The copy, which writes and bans what the policy does now."""
        if self._network is None or not self._has_weights:
            raise ValueError("Call refresh() before speaking()")
        self._network.conversation, self._network.is_banned_V = self.policy.conversation, self.policy.is_banned_V
        yield self._network

    def rest(self) -> None:
        """Free the copy's memory; gathering all of it again costs less than a layer's pass."""
        self.close()

    def close(self) -> None:
        """Free the copy's memory."""
        if self._network is not None and self._has_weights:
            free_memory(self._network.model)
            self._has_weights = False
