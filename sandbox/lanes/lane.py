"""The protocol of every lane, and the plans that an executor makes for requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from sandbox.images import Budget
from sandbox.operations.program import ToolProgram
from sandbox.types import Observation, Tell, ToolRequest


@dataclass(frozen=True)
class Rejected:
    """A request that does not run; the observation says why."""

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
        """The name of this lane in observations."""

    def run(self, calls: Sequence[Call]) -> Sequence[Observation | None]:
        """Return one result per call, in order; None for a call that another lane must run.

        Never raises because of the content of a call: a failed call becomes an observation, and the others are served.
        """

    def close(self) -> None:
        """End the lane's processes; may be called twice."""

    def disown(self) -> None:
        """Release the parent's processes, in a forked child."""


class CodeLane(Lane[ToolRequest], Protocol):
    """A lane that runs code, and may keep an episode's variables."""

    def run(
        self, calls: Sequence[ToolRequest], budget: Budget | None = None, tell: Tell | None = None
    ) -> Sequence[Observation | None]:
        """Like `Lane.run`, but refuses results beyond the budget. `tell` gets some observations early."""

    def has_state(self, episode: str) -> bool:
        """Whether variables of the episode are alive in a worker."""


OneCall = TypeVar("OneCall")


def run_lane(
    lane: Lane[OneCall],
    calls: Mapping[int, OneCall],
    run: Callable[[Sequence[OneCall]], Sequence[Observation | None]] | None = None,
) -> dict[int, Observation]:
    """The observations of a lane, by index, without those of calls that the lane leaves to another one.

    Args:
        lane: The lane that runs the calls.
        calls: The calls, by index.
        run: Runs the calls; `lane.run` by default.
    """
    if not calls:
        return {}
    try:
        observations = (run or lane.run)(list(calls.values()))
    except Exception as error:  # noqa: BLE001 - whatever fails here must not end a training step
        text = f"The sandbox failed: {type(error).__name__}: {error}"
        observations = [Observation("crash", text=text, lane=lane.name)] * len(calls)
    return {index: seen for index, seen in zip(calls, observations, strict=True) if seen is not None}
