"""SFT episodes of `StrategyWorld`: turns, crops, both in one call, shrinking crops, recovery, and no tool at all.

A call may first fail or have the wrong effect: this first call is shown but not trained. A wrong turn is corrected on
the image that it made, as in `oracle`. A wrong crop does not show what the question asks for, so the next crop starts
again from the image before it. A small share of episodes tries a filter first, on an image that does not need
one, so that the policy has seen the words of a filter call. No episode shows a filter on a `faded` image, where it
would help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cv_lightning.conversation import announcement, format_answer, format_tool_call, parse_reply
from cv_lightning.data.oracle import (
    BROKEN_CALLS,
    ERROR_REASONS,
    REASONS,
    TURNS,
    UPRIGHT_REASONS,
    WrittenCall,
    pick,
    take_written_turn,
    undoing_steps,
    write_code,
    wrong_turns,
)
from cv_lightning.data.source import Split, check_seed, check_weights, generator
from cv_lightning.data.worlds.boards import BOARD, COLORS, MARKS, PLACES
from cv_lightning.data.worlds.families import NamedCrop
from cv_lightning.data.worlds.strategy import CORNERS, StrategyWorld, box_in_words
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import gather_effects, last_orientation, required_orientation
from cv_lightning.frames import view_question
from cv_lightning.rollout import Executor
from cv_lightning.tools.toolbox import ToolboxName
from cv_lightning.types import Box, Sample, StopReason, Trajectory, Turn
from sandbox import inverse

CROP_REASON, READABLE_REASON, FILTER_REASON, WRONG_REASON = "Too small.", "Readable.", "Unclear.", "Still wrong."

#: Filters by toolbox: the calls that a policy may try on any image.
FILTERS: Mapping[ToolboxName, tuple[WrittenCall, ...]] = {
    "code": tuple(
        write_code(f"result = {call}")
        for call in ("ImageOps.autocontrast(image)", "ImageOps.equalize(image)", "ImageOps.grayscale(image)")
    ),
    "named": (("autocontrast", {}), ("contrast", {"factor": 4}), ("grayscale", {})),
}
#: Of these filters, episodes try the first ones, which raise the contrast. The tokenizer knows the words of all.
_N_TRIED = 2
#: Crops that fail.
_BROKEN_CROPS: Mapping[ToolboxName, tuple[WrittenCall, ...]] = {
    "code": (write_code("result = image.crop_box((0, 0, 42, 42))"), write_code("result = image.cut((0, 0, 42, 42))")),
    "named": (("crop_box", {"bbox": [0, 0, 42, 42]}), ("crop", {"box": [0, 0, 42, 42]})),
}
#: Share of wrong turns that fail. The others give an image that is still wrong, which is harder to see than an error.
_FAILING_TURNS = 0.3
#: Maximum share of episodes with a filter: more would teach filters, which the policy should only have seen.
MAX_FILTERS = 0.02


@dataclass(frozen=True)
class StrategyEpisodes:
    """Writes the SFT episode of any index of a world.

    Attributes:
        source: The world.
        tools: Whether episodes call tools; if not, only families that need no tool are written.
        recovery: Share of the episodes with tools in which a call first fails or is wrong and is then corrected.
        filters: Share of the episodes that try a filter first, at most 0.02.
        in_one_call: Share of the episodes of `find_turned` that turn and crop in one call of code.
        seed: Seed of the choices.
        toolbox: "code" or "named": the tools that the policy has.
    """

    source: StrategyWorld = field(default_factory=StrategyWorld)
    tools: bool = True
    recovery: float = 0.2
    filters: float = MAX_FILTERS
    in_one_call: float = 0.25
    seed: int = 0
    toolbox: ToolboxName = "code"

    def __post_init__(self) -> None:
        check_seed("builder.seed", self.seed)
        check_weights("builder.toolbox", {self.toolbox: 1.0}, tuple(TURNS))
        for name in ("recovery", "in_one_call"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"builder.{name}: expected a share in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.filters <= MAX_FILTERS:
            raise ConfigError(
                f"builder.filters: expected a share in [0, {MAX_FILTERS}], got {self.filters}. More would teach the "
                "filter that reinforcement learning is meant to find."
            )
        if self.toolbox == "named" and self.in_one_call:
            raise ConfigError(
                f"builder.in_one_call: expected 0 with named tools, which do one thing per call, got {self.in_one_call}"
            )

    def episode(self, split: Split, index: int, executor: Executor) -> Trajectory | None:
        """The episode at `index`; None if its sample gets no episode, or if a call did not have the planned effect."""
        sample, crops = self.source.sample_and_crops(split, index)
        if sample.family == "faded" or (not self.tools and sample.transforms):
            return None
        return _Writer(self, sample, crops, executor, generator(self.seed, split, index, stream=1)).write()

    def size(self, split: Split) -> int | None:
        """None: episodes never end."""
        return self.source.size(split)


@dataclass
class _Writer:
    """Writes one episode."""

    settings: StrategyEpisodes
    sample: Sample
    crops: tuple[NamedCrop, ...]
    executor: Executor
    rng: np.random.Generator
    #: Index of the image that the next call works on: the last image that a turn or a correct call made.
    view: int = 0

    def write(self) -> Trajectory | None:
        self.trajectory = Trajectory(self.sample, images=view_question(self.sample))
        if self.settings.tools and self.rng.random() < self.settings.filters:
            self._call(FILTER_REASON, pick(self.rng, FILTERS[self.settings.toolbox][:_N_TRIED]))
        self._solve()
        is_cropped = "crop" in self.sample.transforms
        text = format_answer(READABLE_REASON if is_cropped else UPRIGHT_REASONS[0], self.sample.answer)
        self.trajectory.turns.append(Turn(text, parse_reply(text)))
        self.trajectory.stop_reason = StopReason.ANSWERED
        return self.trajectory if self._checks() else None

    def _solve(self) -> None:
        """Turn, then crop, with at most one mistake."""
        steps, boxes = undoing_steps(self.sample), crop_boxes(self.sample)
        n_calls = len(steps) + len(boxes)
        has_mistake = n_calls and self.settings.tools and self.rng.random() < self.settings.recovery
        mistake = int(self.rng.integers(n_calls)) if has_mistake else n_calls
        if steps and boxes and mistake == n_calls and self.rng.random() < self.settings.in_one_call:
            place = box_in_words(self.crops[0].name, boxes[0])
            self._call(f"{_turned(steps[0])} {CROP_REASON} {place}", write_crop_and_turn(boxes[0], steps[0]))
            return
        if mistake < len(steps):
            self._turn_wrongly()
            steps = undoing_steps(self.sample, self.trajectory.images[self.view].orientation)
        for step in steps:
            self._call(_turned(step), TURNS[self.settings.toolbox][step][0])
        for number, (crop, box) in enumerate(zip(self.crops, boxes, strict=True), n_calls - len(boxes)):
            if number == mistake:
                self._crop_wrongly(crop)
            self._crop(crop.name, self._in_view(box))

    def _crop(self, name: str, box: Box, *, is_mistake: bool = False) -> None:
        """Name the target and its box in the reasoning, as in `locate`, then crop that box."""
        call = write_crop(self.settings.toolbox, box)
        self._call(f"{CROP_REASON} {box_in_words(name, box)}", call, is_mistake=is_mistake)

    def _turn_wrongly(self) -> None:
        """Make a call that fails, or a wrong turn that one more turn from its result corrects."""
        toolbox = self.settings.toolbox
        fails = self.rng.random() < _FAILING_TURNS
        calls = BROKEN_CALLS[toolbox] if fails else [TURNS[toolbox][pick(self.rng, wrong_turns(self.sample))][0]]
        self._call(REASONS[pick(self.rng, list(REASONS))][0], pick(self.rng, calls), is_mistake=True)
        self.view = len(self.trajectory.images) - 1

    def _crop_wrongly(self, crop: NamedCrop) -> None:
        """Make a call that fails, or a crop of another plate or board."""
        if self.rng.random() < 0.5:
            broken = pick(self.rng, _BROKEN_CROPS[self.settings.toolbox])
            self._call(CROP_REASON, broken, is_mistake=True)
        else:
            self._crop(crop.name, pick(self.rng, crop.others), is_mistake=True)

    def _call(self, reason: str, written: WrittenCall, *, is_mistake: bool = False) -> None:
        turns = self.trajectory.turns
        if turns and not turns[-1].is_trained:
            last = turns[-1].observation
            failed = last is None or last.status != "ok"
            reason = f"{ERROR_REASONS[0] if failed else WRONG_REASON} {reason}"
        name, arguments = written
        text = format_tool_call(reason, name, {**arguments, "image_index": self.view})
        take_written_turn(self.trajectory, text, self.settings.toolbox, self.executor, is_trained=not is_mistake)
        if not is_mistake:
            self.view = len(self.trajectory.images) - 1

    def _in_view(self, box: Box) -> Box:
        """A box of the question's image in pixels of the view."""
        frame = self.trajectory.images[self.view].frame
        if frame is None:
            raise ValueError("view: expected a known frame, got none")
        return frame.inverse().box(box)

    def _checks(self) -> bool:
        """Whether every trained call ran, the last view is upright, and the crop shows the box."""
        if any(
            turn.observation and turn.observation.status != "ok" for turn in self.trajectory.turns if turn.is_trained
        ):
            return False
        evidence = gather_effects(self.trajectory)
        is_cropped = "crop" not in evidence.required or evidence.best_iou > 0.99
        return is_cropped and last_orientation(self.trajectory) == required_orientation(self.sample)


def crop_boxes(sample: Sample) -> list[Box]:
    """The crops that a sample needs, in pixels of its image: each inside the previous crop, the last one its box."""
    if "crop" not in sample.transforms or sample.box is None:
        return []
    x, y = (BOARD * int(edge // BOARD) for edge in sample.box[:2])
    outer: list[Box] = [(x, y, x + BOARD, y + BOARD)] if sample.images[0].width > BOARD else []
    return [*outer, sample.box]


def write_crop(toolbox: ToolboxName, box: Sequence[float]) -> WrittenCall:
    """The crop of a box in pixels of its image."""
    edges = [round(edge) for edge in box]
    if toolbox == "named":
        return "crop", {"bbox": edges}
    return write_code(f"result = image.crop(({', '.join(map(str, edges))}))")


def write_crop_and_turn(box: Sequence[float], step: str) -> WrittenCall:
    """One call of code that crops a box of the unturned view and turns the result."""
    turn = str(TURNS["code"][step][0][1]["code"])
    crop = f"image.crop(({', '.join(str(round(edge)) for edge in box)}))"
    return write_code(turn.replace("image", crop, 1))


def _turned(step: str) -> str:
    return REASONS[inverse(step)][0]


def strategy_wordings() -> Iterator[str]:
    """Texts of the turns that this oracle writes, without answers and boxes, to train a new tokenizer.

    They cover both toolboxes, so that one base model serves both.
    """
    yield from ("system\n", "user\n", "assistant\n", "Read.", "Read the plate.")
    yield from (announcement(index, (0, 0)) for index in range(4))
    for color in COLORS:
        yield f"Read the {color} plate."
        yield f"Read the {color} plate on the "
        yield from (f"Read the plate {place} the {color} one" for place in PLACES)
        # No question has this form, but the tokenizer of docs/paper.md was trained on it; other texts would change it.
        yield f"Find {color}, {color}."
        yield from (f"{color} {edge}, " for edge in (0, 21))
    yield from (f" on the {name} board." for name in CORNERS)
    yield from (f"{CROP_REASON} {name} 0, " for name in CORNERS)
    yield from (f"Read the plate with the {mark}" for mark in MARKS)
    for reason in (UPRIGHT_REASONS[0], READABLE_REASON):
        yield from [format_answer(reason, "")] * 20
    for toolbox in TURNS:
        turns = [(_turned(step), TURNS[toolbox][step][0]) for step in sorted(TURNS[toolbox])]
        crops = [(CROP_REASON, call) for call in (write_crop(toolbox, (0, 0, 0, 0)), *_BROKEN_CROPS[toolbox])]
        filters = [(FILTER_REASON, call) for call in FILTERS[toolbox]]
        broken = [(ERROR_REASONS[0], call) for call in BROKEN_CALLS[toolbox]]
        for reason, (name, arguments) in (*turns, *crops, *filters, *broken):
            yield from (format_tool_call(reason, name, {**arguments, "image_index": index}) for index in (0, 1))
            yield format_tool_call(f"{WRONG_REASON} {reason}", name, {**arguments, "image_index": 0})
