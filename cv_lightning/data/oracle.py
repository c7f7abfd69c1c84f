"""SFT episodes: an oracle reads a sample's metadata, writes reasoning and code, executes it, and checks the result.

Wordings and spellings vary for the same effect, so the policy learns an action and not a string. If the first call of
an episode is wrong, the mistake is shown but not trained. If the wrong call made an image, the next call turns that
image: judging this image takes the same skill as the first look. Policies that returned to the first image repeated
their mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from cv_lightning.conversation import format_answer, format_tool_call, parse_reply
from cv_lightning.data.source import SampleSource, Split, check_seed, check_weights, choose, generator
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import ORIENTATION_TOOLS, last_orientation, required_orientation
from cv_lightning.frames import see_result, view_question
from cv_lightning.rollout import Executor, refusal, request_of
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.toolbox import ToolboxName
from cv_lightning.types import CODE_TOOL, Sample, StopReason, Trajectory, Turn
from sandbox import inverse, orient
from sandbox.geometry import compose

T = TypeVar("T")

#: Descriptions of an image's fault, by its transform; short wordings come first.
REASONS: dict[str, tuple[str, ...]] = {
    "rotate_90": ("Turned left.", "It lies on its left side.", "The text runs upwards, it was turned to the left."),
    "rotate_180": ("Upside down.", "It stands on its head.", "The text is upside down, it was turned by 180 degrees."),
    "rotate_270": (
        "Turned right.",
        "It lies on its right side.",
        "The text runs downwards, it was turned to the right.",
    ),
    "flip_horizontal": (
        "Mirrored.",
        "Left and right are swapped.",
        "The letters are mirrored, it runs from right to left.",
    ),
    "flip_vertical": ("Flipped.", "Top and bottom are swapped.", "The letters are flipped from top to bottom."),
}
UPRIGHT_REASONS = ("Upright.", "It can be read as it is.", "The text is upright, nothing needs to be turned.")
WRONG_REASONS = ("Still wrong.", "That was not it.", "The result is not upright yet, so the turn was wrong.")
ERROR_REASONS = ("An error.", "The code failed.", "The code raised an error, it must be mended.")

#: Code for each orientation; all spellings of an orientation give the same pixels.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "rotate_90": (
        "result = image.rotate(90, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_90)",
        "result = Image.fromarray(np.rot90(np.array(image)))",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_90_COUNTERCLOCKWISE))",
    ),
    "rotate_180": (
        "result = image.rotate(180)",
        "result = image.transpose(Image.Transpose.ROTATE_180)",
        "result = Image.fromarray(np.rot90(np.array(image), 2))",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_180))",
    ),
    "rotate_270": (
        "result = image.rotate(270, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_270)",
        "result = Image.fromarray(np.rot90(np.array(image), 3))",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_90_CLOCKWISE))",
    ),
    "flip_horizontal": (
        "result = ImageOps.mirror(image)",
        "result = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)",
        "result = Image.fromarray(np.fliplr(np.array(image)))",
        "result = Image.fromarray(cv2.flip(np.array(image), 1))",
    ),
    "flip_vertical": (
        "result = ImageOps.flip(image)",
        "result = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)",
        "result = Image.fromarray(np.flipud(np.array(image)))",
        "result = Image.fromarray(cv2.flip(np.array(image), 0))",
    ),
}
#: Typical mistakes of a model: names that do not exist, wrong arguments.
BROKEN = (
    "result = image.rotate_image(90)",
    "result = image.transpose(Image.Transpose.ROTATE)",
    "result = image.flip_left_right()",
    "result = img.rot90()",
)


#: A call without its image index: the tool and its arguments.
WrittenCall = tuple[str, Mapping[str, Any]]


def write_code(code: str) -> WrittenCall:
    """A call of the code tool."""
    return CODE_TOOL, {"code": code, "description": ""}


#: Calls for each orientation, by toolbox.
TURNS: dict[ToolboxName, dict[str, tuple[WrittenCall, ...]]] = {
    "code": {name: tuple(map(write_code, spellings)) for name, spellings in SPELLINGS.items()},
    "named": {
        "rotate_90": (("rotate", {"angle": 90}),),
        "rotate_180": (("rotate", {"angle": 180}),),
        "rotate_270": (("rotate", {"angle": 270}),),
        "flip_horizontal": (("flip", {"direction": "horizontal"}),),
        "flip_vertical": (("flip", {"direction": "vertical"}),),
    },
}
#: Calls that fail, by toolbox.
BROKEN_CALLS: dict[ToolboxName, tuple[WrittenCall, ...]] = {
    "code": tuple(map(write_code, BROKEN)),
    "named": (
        ("rotate_image", {"angle": 90}),
        ("flip", {"direction": "left_right"}),
        ("rotate", {"degrees": 90}),
        ("rotate", {"angle": "left"}),
    ),
}

#: Kinds of episodes. "read": an upright image and an immediate answer. "turn": the right call, then the answer.
#: "recover": first a wrong turn or an error, then the call that corrects it.
KINDS = ("read", "turn", "recover")


@dataclass(frozen=True)
class EpisodeBuilder:
    """Writes the SFT episode of any index of a source.

    Attributes:
        source: The source of the samples.
        mix: Frequency of each kind of `KINDS`: kind -> weight.
        turn_weights: Frequency of each transform in "turn" and "recover": name -> weight.
        n_wordings: Number of wordings of a reason to use, shortest first.
        n_spellings: Number of spellings of a turn to use, in the order of `TURNS`.
        seed: Seed of the wordings.
        toolbox: "code" or "named": the tools that the policy has.
    """

    source: SampleSource = field(default_factory=PlateWorld)
    mix: Mapping[str, float] = field(default_factory=lambda: {"read": 1.0, "turn": 5.0, "recover": 0.5})
    turn_weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SPELLINGS, 1.0))
    n_wordings: int = 3
    n_spellings: int = 4
    seed: int = 0
    toolbox: ToolboxName = "code"

    def __post_init__(self) -> None:
        make_toolbox(self.toolbox)
        check_weights("builder.mix", self.mix, KINDS)
        check_weights("builder.turn_weights", self.turn_weights, tuple(SPELLINGS))
        check_seed("builder.seed", self.seed)
        if self.n_wordings < 1 or self.n_spellings < 1:
            raise ConfigError(
                f"builder: expected n_wordings and n_spellings >= 1, got {self.n_wordings}, {self.n_spellings}"
            )

    def episode(self, split: Split, index: int, executor: Executor) -> Trajectory | None:
        """The episode at `index`; None if its calls do not give the upright image, or if the answer needs a crop.

        Raises:
            RowError: The row of the source cannot be used.
        """
        rng = generator(self.seed, split, index, stream=1)
        kind = choose(rng, self.mix)
        transforms = () if kind == "read" else (choose(rng, self.turn_weights),)
        sample = self.source.exactly(split, index, transforms)
        trajectory = Trajectory(sample, images=view_question(sample))
        if kind != "read" and sample.images:
            if kind == "recover":
                self._mistake(trajectory, rng, executor)
            self._turn_upright(trajectory, rng, executor)
        self._answer(trajectory, rng)
        return trajectory if "crop" not in sample.required_tools and _checks(trajectory) else None

    def size(self, split: Split) -> int | None:
        """Number of different episodes of a split; None if they never end."""
        return self.source.size(split)

    def _mistake(self, trajectory: Trajectory, rng: np.random.Generator, executor: Executor) -> None:
        if rng.random() < 0.5:
            call = pick(rng, BROKEN_CALLS[self.toolbox])
        else:
            call = pick(rng, TURNS[self.toolbox][pick(rng, wrong_turns(trajectory.sample))][: self.n_spellings])
        reason = pick(rng, REASONS[pick(rng, list(REASONS))][: self.n_wordings])
        self._call(trajectory, reason, call, 0, executor, is_trained=False)

    def _turn_upright(self, trajectory: Trajectory, rng: np.random.Generator, executor: Executor) -> None:
        """Turn the last seen image upright; after a mistake, comment on its result first."""
        source = len(trajectory.images) - 1 if trajectory.images[-1].turn >= 0 else 0
        for number, needed in enumerate(undoing_steps(trajectory.sample, trajectory.images[source].orientation)):
            reason = pick(rng, REASONS[inverse(needed)][: self.n_wordings])
            if trajectory.turns and number == 0:
                failed = trajectory.turns[-1].observation
                is_error = failed is None or failed.status != "ok"
                reason = f"{pick(rng, (ERROR_REASONS if is_error else WRONG_REASONS)[: self.n_wordings])} {reason}"
            call = pick(rng, TURNS[self.toolbox][needed][: self.n_spellings])
            self._call(trajectory, reason, call, source, executor, is_trained=True)
            source = len(trajectory.images) - 1

    def _call(
        self,
        trajectory: Trajectory,
        reason: str,
        written: WrittenCall,
        image_index: int,
        executor: Executor,
        *,
        is_trained: bool,
    ) -> None:
        name, arguments = written
        text = format_tool_call(reason, name, {**arguments, "image_index": image_index})
        take_written_turn(trajectory, text, self.toolbox, executor, is_trained=is_trained)

    def _answer(self, trajectory: Trajectory, rng: np.random.Generator) -> None:
        text = format_answer(pick(rng, UPRIGHT_REASONS[: self.n_wordings]), trajectory.sample.answer)
        trajectory.turns.append(Turn(text, parse_reply(text)))
        trajectory.stop_reason = StopReason.ANSWERED


def take_written_turn(
    trajectory: Trajectory, text: str, toolbox: ToolboxName, executor: Executor, *, is_trained: bool
) -> Turn:
    """Append a turn that a teacher wrote, with the observation of its call and the resulting image."""
    reply = parse_reply(text, make_toolbox(toolbox))
    turn, call = Turn(text, reply, is_trained=is_trained), reply.call
    if call is not None:
        turn.observation = refusal(reply)
        if call.fault is None:
            (turn.observation,) = executor.execute([request_of(trajectory, call)])
    trajectory.turns.append(turn)
    see_result(trajectory)
    return turn


def wrong_turns(sample: Sample) -> list[str]:
    """Wrong turns that a single further turn can correct: typical mistakes of a policy."""
    needed = required_orientation(sample)
    return [name for name in SPELLINGS if compose(inverse(name), needed) in SPELLINGS]


def undoing_steps(sample: Sample, seen: str | None = "identity") -> list[str]:
    """The turns that make an image upright: a single turn if possible, else the inverse of each transform, last first.

    Args:
        sample: The question.
        seen: The orientation that turns the question's image into the image to correct.

    Raises:
        ValueError: The orientation of the image is unknown.
    """
    if seen is None:
        raise ValueError("image: expected a known orientation, got none")
    needed = compose(inverse(seen), required_orientation(sample))
    if needed == "identity":
        return []
    if needed in SPELLINGS:
        return [needed]
    done = (*sample.transforms, seen)
    return [inverse(name) for name in reversed(done) if name in SPELLINGS]


def _checks(trajectory: Trajectory) -> bool:
    """Whether all trained calls ran and the last image is upright, by its orientation and by its pixels."""
    if any(turn.observation and turn.observation.status != "ok" for turn in trajectory.turns if turn.is_trained):
        return False
    if not trajectory.sample.images:
        return True
    last = trajectory.images[-1].image if trajectory.n_calls else trajectory.sample.images[0]
    is_turned_back = last_orientation(trajectory) == required_orientation(trajectory.sample)
    return is_turned_back and is_upright(last, trajectory.sample)


def is_upright(image: Image.Image, sample: Sample) -> bool:
    """Whether an image equals the sample's first image with its transforms undone, pixel for pixel."""
    upright = orient(sample.images[0], required_orientation(sample))
    return image.size == upright.size and image.tobytes() == upright.tobytes()


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def wordings(toolbox: ToolboxName = "code") -> Iterator[str]:
    """Texts that cover the oracle's turns, without the answers, to train a new tokenizer."""
    yield from ("system\n", "user\n", "assistant\n", PlateWorld().question)
    for reason in (*UPRIGHT_REASONS, *WRONG_REASONS, *ERROR_REASONS):
        yield format_answer(reason, "")
    for name in sorted(ORIENTATION_TOOLS & set(SPELLINGS)):
        for reason in REASONS[name]:
            for tool, arguments in TURNS[toolbox][inverse(name)]:
                yield format_tool_call(reason, tool, {**arguments, "image_index": 0})
    for tool, arguments in BROKEN_CALLS[toolbox]:
        yield format_tool_call(ERROR_REASONS[0], tool, {**arguments, "image_index": 0})
