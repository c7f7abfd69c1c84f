"""The policy samples for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import SamplingPolicy
from modules.samplers.sampler import Sampler


class Itself(Sampler):
    """Samples with the trained weights: there is no copy, and no difference from the policy that scores."""

    agrees = True
    separates_calls = True

    def refresh(self) -> None:
        """Copy nothing.

        Raises:
            ConfigError: The policy is sharded: every token would gather every layer, and ranks that sample different
                numbers of tokens would wait for each other forever.
        """
        if self.policy.is_sharded:
            raise ConfigError(
                "model.sampler: expected a sampler that holds a copy, because the policy is sharded. "
                "Add `sampler: {class_path: modules.samplers.Replica}`; experiments/sharded.yaml does."
            )

    @contextmanager
    def speaking(self) -> Iterator[SamplingPolicy]:
        """The policy, in evaluation mode."""
        was_training = self.policy.training
        self.policy.eval()
        yield self.policy
        self.policy.train(was_training)
