"""The interface of the samplers that a module uses for its rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy


class Sampler(ABC):
    """Samples for a policy, with the weights that the policy had at the last `refresh`.

    `attach` is called first and once, before the policy is sharded. `refresh`, `rest` and `close` are called on all
    ranks together: `refresh` before the rollouts of each training step and before an evaluation, `rest` after the
    rollouts of a training step. Between two calls a rank may roll out as often as it needs to, so `speaking` must not
    wait for other ranks.

    An engine is a subclass too. Its `refresh` starts or wakes it and sends it the weights; `speaking` gives a
    `SamplingPolicy` with the policy's own `conversation`, whose sessions are `AsyncSession`s. The sessions must

    - take token ids, and fail if the engine's prompt has other ids;
    - sample from the whole distribution at the temperature, without the policy's banned tokens (`is_banned_V`), and
      return the log-probability of each token under that distribution;
    - end a turn after the conversation's end-of-turn token, at `max_new_tokens` or at `max_context_tokens`;
    - report which weights sampled each token (`Completion.versions`), and refuse a reply from other weights than those
        that the engine was given;
    - derive a separate seed for each trajectory and turn from `Sampling.seed`;
    - retry failures that may pass: an `EngineError` ends the rollout, and with it the run.
    """

    #: Whether its log-probabilities equal the policy's, up to the order of sums.
    agrees: bool = False
    #: Whether it samples at `Sampling.call_temperature` inside tool calls.
    separates_calls: bool = False

    @property
    def version(self) -> int | None:
        """The number of the current weights, as in `Completion.versions`; None if the sampler is no engine."""
        return None

    def attach(self, policy: Policy) -> None:
        """Store the policy, which may have no weights yet."""
        self.policy = policy

    @abstractmethod
    def refresh(self) -> None:
        """Copy the policy's weights, if they may have changed since the last call."""

    @abstractmethod
    def speaking(self) -> AbstractContextManager[SamplingPolicy]:
        """The policy that the rollout loop samples from, while the context is open."""

    def rest(self) -> None:  # noqa: B027  # most samplers hold nothing
        """Free device memory until the next `refresh`, because the update needs it."""

    def close(self) -> None:  # noqa: B027  # most samplers hold nothing
        """Free memory and end processes; the next `refresh` starts them again. May be called twice."""
