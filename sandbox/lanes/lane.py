"""The protocol that every lane keeps, and the plans that an executor makes of requests for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from sandbox.images import Budget
from sandbox.operations.program import ToolProgram
from sandbox.types import Observation, Tell, ToolRequest


@dataclass(frozen=True)
class Rejected:
    """Nothing runs: the observation says why."""

    observation: Observation


@dataclass(frozen=True)
class Lifted:
    """Known library calls with checked values, which run without the policy's text."""

    request: ToolRequest
    program: ToolProgram

    @property
    def image(self) -> Image.Image:
        """The image that the program starts from."""
        source = self.program.source
        return self.request.images[self.request.image_index if source is None else source]


@dataclass(frozen=True)
class Confined:
    """The policy's own code, which runs in a confined worker."""

    request: ToolRequest


Plan = Rejected | Lifted | Confined

Call = TypeVar("Call", contravariant=True)


class Lane(Protocol[Call]):
    """Runs calls of one type: `Lifted` programs, `ToolRequest`s with code, or `ModelStep`s."""

    @property
    def name(self) -> str:
        """The lane of its observations."""

    def run(self, calls: Sequence[Call]) -> Sequence[Observation | None]:
        """One result for each call, in order; None for a call that another lane must run.

        Never raises for what a call holds: one that fails is an observation, and the others are served.
        """

    def close(self) -> None:
        """End its processes; it may be called twice."""

    def disown(self) -> None:
        """Let go of the parent's processes, in a forked child."""


class CodeLane(Lane[ToolRequest], Protocol):
    """A lane that runs code, and may keep an episode's variables."""

    def run(
        self, calls: Sequence[ToolRequest], budget: Budget | None = None, tell: Tell | None = None
    ) -> Sequence[Observation | None]:
        """As `Lane.run`; results beyond the budget are refused. `tell` gets some while others run."""

    def has_state(self, episode: str) -> bool:
        """Whether variables of the episode are alive in a worker."""
