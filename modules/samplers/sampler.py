"""What a module asks of the one that speaks in its rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy


class Sampler(ABC):
    """Speaks for a policy, with the weights that the policy had at the last `refresh`.

    `attach` comes first and once, before the policy is sharded. `refresh`, `rest` and `close` are called on all ranks
    together: `refresh` before the rollouts of each training step and before an evaluation, `rest` when the rollouts of
    a training step are over. Between two calls a rank may roll out as often as it needs to, so `speaking` must not
    wait for other ranks.

    An engine is one more subclass. Its `refresh` starts or wakes it and brings it the weights; `speaking` gives a
    `SamplingPolicy` with the policy's own `conversation`, whose sessions are `AsyncSession`s. They must

    - take token ids, and fail if the engine's prompt has others;
    - draw from the whole distribution at the temperature, without the policy's banned tokens (`is_banned_V`), and
      return the log-probability of each token under that distribution;
    - end a turn after the conversation's end-of-turn token, at `max_new_tokens` or at `max_context_tokens`;
    - say which weights drew each token (`Completion.versions`), and refuse a reply of weights that it was not given;
    - derive a seed of its own for each trajectory and turn from `Sampling.seed`;
    - retry what can be retried: an `EngineError` ends the rollout, and with it the run.
    """

    #: Whether its log-probabilities are those that the policy gives, up to the order of sums.
    agrees: bool = False
    #: Whether it samples at `Sampling.call_temperature` inside of tool calls.
    separates_calls: bool = False

    @property
    def version(self) -> int | None:
        """The number of the weights that speak now, as in `Completion.versions`; None if no engine speaks."""
        return None

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
        """Give back memory and processes; the next `refresh` starts them again. It may be called twice."""
