"""What a module asks of the one that speaks in its rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy


class Sampler(ABC):
    """Speaks for a policy, with the weights that the policy had at the last `refresh`.

    `attach` comes first and once, before the policy is sharded. `refresh` is called on all ranks together: before the
    rollouts of each training step and before an evaluation. Between two calls a rank may roll out as often as it needs
    to, so `speaking` must not wait for other ranks.
    """

    #: Whether its log-probabilities are those that the policy gives, up to the order of sums.
    agrees: bool = False
    #: Whether it samples at `Sampling.call_temperature` inside of tool calls.
    separates_calls: bool = False

    def attach(self, policy: Policy) -> None:
        """Take note of the policy; it may have no weights yet."""
        self.policy = policy

    @abstractmethod
    def refresh(self) -> None:
        """Take over the policy's weights, if they may have changed since the last time."""

    @abstractmethod
    def speaking(self) -> AbstractContextManager[SamplingPolicy]:
        """What the rollout loop asks, while the context is open."""

    def rest(self) -> None:  # noqa: B027  # most samplers hold nothing
        """Give back the device's memory until the next `refresh`: the update needs it."""

    def close(self) -> None:  # noqa: B027  # most samplers hold nothing
        """Give back memory and processes; the next `refresh` starts them again."""
