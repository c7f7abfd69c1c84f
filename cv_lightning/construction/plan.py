"""Plans an episode before its text is written: kind, question, transforms, boxes and steps.

The kinds are those of the SFT data in arXiv 2512.03746: one tool, several tools, several shrinking crops, recovery from
an error, no tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from cv_lightning.data.oracle import SPELLINGS, undoing_steps
from cv_lightning.data.source import SampleSource, Split, check_seed, check_weights, choose, generator
from cv_lightning.errors import ConfigError
from cv_lightning.types import Box, Sample

Kind = Literal["single_tool", "several_tools", "several_crops", "error_handling", "no_tool"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Pairs of transforms that no single tool undoes.
_PAIRS = tuple((turn, flip) for turn in ("rotate_90", "rotate_270") for flip in ("flip_horizontal", "flip_vertical"))

#: An index without a usable sample is replaced by an index this far ahead, which no build reaches by counting.
_STRIDE = 2**40
#: Maximum number of samples to draw until one suits the kind.
_MAX_DRAWS = 200
#: Random stream of plans; streams 0 and 1 draw samples and write episodes.
_STREAM = 15


@dataclass(frozen=True)
class PlannedStep:
    """One turn of an episode.

    Attributes:
        tool: An orientation, "crop", or "answer".
        box: The region to crop, in pixels of the question's image.
        is_fault: True if the call should fail, so that the next call corrects it.
    """

    tool: str
    box: Box | None = None
    is_fault: bool = False


@dataclass(frozen=True)
class EpisodePlan:
    """The metadata of an episode.

    Attributes:
        index: Its place in the build.
        attempt: Number of earlier plans of this index.
        kind: See `KINDS`.
        sample: The question; its transforms and box belong to its image.
        steps: The tasks of its turns, with the answer last.
        source: Class name of the sample's source.
        sample_index: Index of the sample in its source.
    """

    index: int
    attempt: int
    kind: Kind
    sample: Sample
    steps: tuple[PlannedStep, ...]
    source: str
    sample_index: int

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools of the calls that should succeed, in order."""
        return tuple(step.tool for step in self.steps if not step.is_fault and step.tool != "answer")

    def metadata(self) -> dict[str, Any]:
        """The plan in plain values."""
        sample = self.sample
        return {
            "kind": self.kind,
            "index": self.index,
            "attempt": self.attempt,
            "source": self.source,
            "source_id": sample.id,
            "source_index": self.sample_index,
            "transforms": list(sample.transforms),
            "box": None if sample.box is None else list(sample.box),
            "tools": list(self.tools),
            "crop_boxes": [list(step.box) for step in self.steps if step.box is not None and not step.is_fault],
        }


@dataclass(frozen=True)
class Planner:
    """Draws the plan of any index.

    Attributes:
        sources: Sources of the samples.
        source_weights: Weight of each source; None for equal weights.
        shares: Weight of each kind of `KINDS`.
        turn_weights: Weight of each orientation that is applied to an image.
        max_crops: Maximum number of crops in "several_crops"; the minimum is 2.
        first_index: Sample index to start from, so that two builds share no sample.
        split: The split of the sources.
        seed: Seed of the plans.
    """

    sources: Sequence[SampleSource]
    source_weights: Sequence[float] | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    turn_weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SPELLINGS, 1.0))
    max_crops: int = 3
    first_index: int = 0
    split: Split = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        check_weights("planner.shares", self.shares, KINDS)
        check_weights("planner.turn_weights", self.turn_weights, tuple(SPELLINGS))
        check_seed("planner.seed", self.seed)
        if not self.sources:
            raise ConfigError("planner.sources: expected at least one source, got none.")
        if self.source_weights is not None and len(self.source_weights) != len(self.sources):
            raise ConfigError(
                f"planner.source_weights: expected one for each of {len(self.sources)} sources, "
                f"got {self.source_weights}"
            )
        check_weights("planner.source_weights", self._weights, tuple(self._weights))
        if self.max_crops < 2 or self.first_index < 0:
            raise ConfigError(
                f"planner: expected max_crops >= 2 and first_index >= 0, got {self.max_crops}, {self.first_index}"
            )
        if empty := [type(source).__name__ for source in self.sources if source.size(self.split) == 0]:
            raise ConfigError(
                f"planner.sources: no {self.split} samples in {', '.join(empty)}. Give a file for that split, or set "
                "planner.split."
            )

    @property
    def _weights(self) -> dict[str, float]:
        weights = [1.0] * len(self.sources) if self.source_weights is None else self.source_weights
        return {str(place): weight for place, weight in enumerate(weights)}

    def kind_of(self, index: int) -> Kind:
        """The kind of an index, the same for all its attempts."""
        drawn = choose(generator(self.seed, self.split, index, _STREAM), self.shares)
        return next(kind for kind in KINDS if kind == drawn)

    def plan(self, index: int, attempt: int = 0) -> EpisodePlan:
        """The plan of an index.

        Raises:
            ConfigError: None of `_MAX_DRAWS` samples suits the kind.
            DataError: A source has no usable row.
        """
        kind = self.kind_of(index)
        rng = generator(self.seed, self.split, index + (attempt + 1) * _STRIDE, _STREAM)
        for draw in range(_MAX_DRAWS):
            place = int(choose(rng, self._weights))
            source = self.sources[place]
            at = self.first_index + index + (attempt * _MAX_DRAWS + draw) * _STRIDE
            if (size := source.size(self.split)) is not None:
                at = at % size if attempt == draw == 0 else int(rng.integers(size))
            sample = self._sample(source, at, kind, rng)
            steps = None if sample is None else self._steps(sample, kind, rng)
            if sample is not None and steps is not None:
                return EpisodePlan(index, attempt, kind, sample, steps, type(source).__name__, at)
        raise ConfigError(
            f"planner.shares: none of {_MAX_DRAWS} samples fits the kind {kind!r}. 'several_crops' needs samples with "
            "a box and the transform 'crop', 'no_tool' needs samples without. Set its share to 0, or add a source."
        )

    def _sample(self, source: SampleSource, at: int, kind: Kind, rng: np.random.Generator) -> Sample | None:
        """A sample with transforms for its image; None if the sample does not suit the kind."""
        upright = source.sample(self.split, at, ())
        needs_crop = "crop" in upright.transforms
        if not upright.images or (needs_crop and upright.box is None):
            return None
        if kind == "error_handling":
            kind = "several_tools" if rng.random() < 0.5 else "single_tool"
        if kind == "no_tool" or kind == "several_crops":
            return upright if needs_crop == (kind == "several_crops") else None
        if kind == "single_tool":
            return upright if needs_crop else source.sample(self.split, at, (choose(rng, self.turn_weights),))
        pair = _PAIRS[int(rng.integers(len(_PAIRS)))]
        return source.sample(self.split, at, (choose(rng, self.turn_weights),) if needs_crop else pair)

    def _steps(self, sample: Sample, kind: Kind, rng: np.random.Generator) -> tuple[PlannedStep, ...] | None:
        steps = [PlannedStep(tool) for tool in undoing_steps(sample)]
        if "crop" in sample.transforms and sample.box is not None:
            n_crops = int(rng.integers(2, self.max_crops + 1)) if kind == "several_crops" else 1
            steps += [
                PlannedStep("crop", box) for box in shrinking_boxes(sample.images[0].size, sample.box, n_crops, rng)
            ]
        if kind == "error_handling":
            at = int(rng.integers(len(steps)))
            steps.insert(at, PlannedStep(steps[at].tool, steps[at].box, is_fault=True))
        return (*steps, PlannedStep("answer"))


def shrinking_boxes(size: tuple[int, int], box: Box, count: int, rng: np.random.Generator) -> list[Box]:
    """Whole-pixel boxes around `box`, each inside the previous one; the last box is `box` rounded outwards.

    Args:
        size: Width and height of the image.
        box: The region that holds the answer.
        count: Number of boxes.
        rng: Draws the place of each box inside the previous one.

    Returns:
        The boxes; their sides shrink by equal factors from the image to the box.
    """
    last = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    outer: tuple[int, int, int, int] = (0, 0, *size)
    boxes: list[Box] = []
    for left in range(count - 1, 0, -1):
        edges = []
        for axis in (0, 1):
            room, needed = outer[axis + 2] - outer[axis], last[axis + 2] - last[axis]
            side = max(needed, round(room * (needed / room) ** (1 / (left + 1))))
            low, high = max(outer[axis], last[axis + 2] - side), min(last[axis], outer[axis + 2] - side)
            edges.append((int(rng.integers(low, high + 1)), side))
        (x, width), (y, height) = edges
        outer = (x, y, x + width, y + height)
        boxes.append(outer)
    return [*boxes, last]
