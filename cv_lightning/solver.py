"""The interface of a policy in an evaluation, whether its weights are here or behind a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample, Trajectory


class Solver(ABC):
    """Answers questions, with or without tools, and returns every step to the answer."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text of all that decides the answers: weights or model name, prompt, sampling.

        Answers that were recorded under the same fingerprint are not asked for again.
        """

    @abstractmethod
    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        """A trajectory for each sample, in order; None if there is none: the next run asks again.

        Whatever a policy says is data in the trajectory and raises nothing.
        """

    def without_tools(self) -> Solver:
        """The same policy as a solver that answers at once: it is offered no tool, and none is executed.

        Raises:
            ConfigError: The policy cannot be asked so.
        """
        raise ConfigError(f"{type(self).__name__} cannot be asked without tools: leave compare_without_tools off.")

    def usage(self) -> dict[str, float]:
        """Cost of the answers so far (requests, tokens, money), by name; empty if nothing is counted."""
        return {}

    def close(self) -> None:  # noqa: B027 - a solver that holds nothing open has nothing to close
        """Let go of processes and connections."""
