"""The interface of a policy in an evaluation, whether its weights are local or behind a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample, Trajectory


class Solver(ABC):
    """Answers questions, with or without tools, and returns every step to the answer."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text of everything that determines the answers: weights or model name, prompt, sampling.

        Answers that were recorded under the same fingerprint are not requested again.
        """

    @abstractmethod
    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        """A trajectory for each sample, in order; None if there is none, and the next run asks again.

        The policy's text is data in the trajectory and never raises an error.
        """

    def without_tools(self) -> Solver:
        """The same policy as a solver that answers at once: no tool is offered or executed.

        Raises:
            ConfigError: The policy cannot be asked without tools.
        """
        raise ConfigError(f"{type(self).__name__} cannot be asked without tools: leave compare_without_tools off.")

    def usage(self) -> dict[str, float]:
        """Cost of the answers so far (requests, tokens, money), by name; empty if nothing is counted."""
        return {}

    def close(self) -> None:  # noqa: B027 - a solver that holds nothing open has nothing to close
        """Release processes and connections."""
