"""Teachers, which write the turns of an episode: the oracle in this module, or a model (`model_teacher`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cv_lightning.construction.plan import EpisodePlan, PlannedStep
from cv_lightning.conversation import format_answer, format_tool_call
from cv_lightning.data.oracle import (
    BROKEN_CALLS,
    ERROR_REASONS,
    REASONS,
    TURNS,
    UPRIGHT_REASONS,
    WrittenCall,
    pick,
    write_code,
)
from cv_lightning.data.source import check_seed, generator
from cv_lightning.errors import ConfigError
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.toolbox import ToolboxName
from cv_lightning.types import Box, Trajectory
from sandbox import inverse

#: Reasons to crop; short wordings come first.
CROP_REASONS = (
    "Too small.",
    "The text that matters is too small to read.",
    "It is upright, but the place in question is too small to read: look closer.",
)
CLOSER_REASONS = (
    "Still too small.",
    "Closer, but not close enough.",
    "It is larger now but still hard to read: go on.",
)
#: Reasons to answer after a crop.
CLOSE_REASONS = ("Readable.", "Now it can be read.", "The cut-out shows the place in question, it can be read now.")

#: Spellings of a crop of the region (x1, y1, x2, y2).
CROPS = (
    "result = image.crop(({x1}, {y1}, {x2}, {y2}))",
    "x1, y1, x2, y2 = {x1}, {y1}, {x2}, {y2}\nresult = image.crop((x1, y1, x2, y2))",
    "result = Image.fromarray(np.array(image)[{y1}:{y2}, {x1}:{x2}])",
)
#: Typical mistakes of a model in a crop.
BROKEN_CROPS = (
    "result = image.crop_box(({x1}, {y1}, {x2}, {y2}))",
    "result = image.crop(({x2}, {y1}, {x1}, {y2}))",
    "result = image.cut(({x1}, {y1}, {x2}, {y2}))",
)


class Teacher(ABC):
    """Writes the next turn of an episode."""

    #: True if the teacher waits for a server, so that threads are enough.
    is_remote = False
    #: Name of the toolbox that it calls.
    toolbox: ToolboxName = "code"

    @abstractmethod
    def write(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str:
        """The text of the next turn.

        Args:
            plan: The metadata.
            trajectory: The turns so far, with their observations.
            step: The task of this turn.

        Raises:
            EndpointError: The server refuses all requests.
            RequestError: This request failed.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The settings that determine its text, in plain values, for the provenance of every episode."""

    def usage(self) -> dict[str, float]:
        """The cost so far; empty if nothing is counted."""
        return {}


@dataclass
class OracleTeacher(Teacher):
    """Writes the turns from the metadata, with varying wordings and spellings.

    Attributes:
        n_wordings: Number of wordings of a reason to use, shortest first.
        n_spellings: Number of spellings of a call to use.
        seed: Seed of the choices.
        toolbox: "code" or "named".
    """

    n_wordings: int = 3
    n_spellings: int = 4
    seed: int = 0
    toolbox: ToolboxName = "code"

    def __post_init__(self) -> None:
        make_toolbox(self.toolbox)
        check_seed("teacher.seed", self.seed)
        if min(self.n_wordings, self.n_spellings) < 1:
            raise ConfigError(
                f"teacher: expected n_wordings and n_spellings >= 1, got {self.n_wordings}, {self.n_spellings}"
            )

    def identity(self) -> dict[str, Any]:
        """Its name and settings."""
        return {
            "name": "oracle",
            "n_wordings": self.n_wordings,
            "n_spellings": self.n_spellings,
            "seed": self.seed,
            "toolbox": self.toolbox,
        }

    def write(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str:
        """The text of the next turn."""
        # Attempt and turn are part of the generator's index, so that no two turns of a build share their choices.
        rng = generator(self.seed, "train", (plan.index << 12) + (plan.attempt << 6) + len(trajectory.turns), stream=14)
        if step.tool == "answer":
            reasons = CLOSE_REASONS if "crop" in plan.tools else UPRIGHT_REASONS
            return format_answer(self._reason(rng, reasons), plan.sample.answer)
        source = len(trajectory.images) - 1
        name, arguments = self._call(rng, step, trajectory)
        reason = self._reason(rng, _reasons(step, trajectory))
        if trajectory.turns and (failed := trajectory.turns[-1].observation) is not None and failed.status != "ok":
            reason = f"{self._reason(rng, ERROR_REASONS)} {reason}"
        return format_tool_call(reason, name, {**arguments, "image_index": source})

    def _reason(self, rng: np.random.Generator, reasons: Sequence[str]) -> str:
        return pick(rng, reasons[: self.n_wordings])

    def _call(self, rng: np.random.Generator, step: PlannedStep, trajectory: Trajectory) -> WrittenCall:
        if step.box is None:
            calls = BROKEN_CALLS[self.toolbox] if step.is_fault else TURNS[self.toolbox][step.tool][: self.n_spellings]
            return pick(rng, calls)
        x1, y1, x2, y2 = box_in_view(trajectory, step.box)
        if self.toolbox == "named":
            return "crop", {"bbox": [x2, y1, x1, y2] if step.is_fault else [x1, y1, x2, y2]}
        codes = BROKEN_CROPS if step.is_fault else CROPS[: self.n_spellings]
        return write_code(pick(rng, codes).format(x1=x1, y1=y1, x2=x2, y2=y2))


def _reasons(step: PlannedStep, trajectory: Trajectory) -> Sequence[str]:
    if step.box is None:
        return REASONS[inverse(step.tool)]
    has_cropped = any("crop" in turn.observation.tools for turn in trajectory.turns if turn.observation is not None)
    return CLOSER_REASONS if has_cropped else CROP_REASONS


def box_in_view(trajectory: Trajectory, box: Box) -> tuple[int, int, int, int]:
    """A box of the question's image in whole pixels of the last image.

    Raises:
        ValueError: The last image has no frame.
    """
    view = trajectory.images[-1]
    if view.frame is None:
        raise ValueError("last image: expected a known frame, got none")
    x1, y1, x2, y2 = (round(edge) for edge in view.frame.inverse().box(box))
    return max(0, x1), max(0, y1), min(view.image.width, x2), min(view.image.height, y2)
