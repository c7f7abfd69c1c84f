"""The core types of this project: sample, turn, trajectory, group, reward.

Suffixes of names give the axes:

| suffix | axis                                   |
| ------ | -------------------------------------- |
| `_P`   | prompts of a step                      |
| `_G`   | rollouts of one prompt                 |
| `_B`   | sequences in a batch                   |
| `_T`   | tokens of a sequence                   |
| `_N`   | distinct images of a batch             |
| `_C` `_H` `_W` | channels, pixel rows, pixel columns |

Images are Pillow RGB; sizes are (width, height); boxes are (x1, y1, x2, y2) in pixels, half-open; angles are degrees
counter-clockwise, as in Pillow. The name of a mask says what True means.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from PIL import Image

from sandbox import Affine, ModelCall, Observation, inverse_transform
from sandbox.images import content_key

Box = tuple[float, float, float, float]

#: Marks the place of an image in a question.
IMAGE = "<image>"

#: The names that `Sample.transforms` may hold: changes made *to* the image, and "crop" if the answer needs a crop.
TRANSFORMS = ("rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical", "crop")


def interleave(text: str, images: Sequence[Image.Image]) -> tuple[str | Image.Image, ...]:
    """Texts and images in order: an image at each `IMAGE` of the text; images without a place come first."""
    texts = text.split(IMAGE, len(images))
    n_first = len(images) - len(texts) + 1
    parts: list[str | Image.Image] = [*images[:n_first], texts[0]]
    for image, words in zip(images[n_first:], texts[1:], strict=True):
        parts += [image, words]
    return tuple(part for part in parts if part != "")


@dataclass(frozen=True)
class Sample:
    """One question about one or more images.

    Attributes:
        id: Unique within its source.
        question: The text shown to the policy. Each `<image>` in it is the place of an image; images without a place
            come first.
        images: The images as the policy sees them (transforms already applied), RGB.
        answer: The correct answer.
        transforms: The changes that were made to `images[0]`, in order (see `TRANSFORMS`); empty for an upright image.
        box: The region that holds the answer, in pixels of `images[0]`, or None.
        family: The kind of task, for metrics by family ("plates", "chart", ...).
        source: The data set that the row came from.
        alternatives: Other correct answers.
        rule: Name in `grading.RULES` of the rule that compares answers.
    """

    id: str
    question: str
    images: tuple[Image.Image, ...]
    answer: str
    transforms: tuple[str, ...] = ()
    box: Box | None = None
    family: str = "plates"
    source: str = ""
    alternatives: tuple[str, ...] = ()
    rule: str = "match"

    @cached_property
    def parts(self) -> tuple[str | Image.Image, ...]:
        """Texts and images in the order in which the policy sees them."""
        return interleave(self.question, self.images)

    @cached_property
    def required_tools(self) -> frozenset[str]:
        """The tools that undo `transforms` ("crop" requires the crop tool): the set E of the paper."""
        return frozenset(inverse_transform(name) for name in self.transforms)


#: The name of the tool that runs code.
CODE_TOOL = "code_image_tool"


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        code: The code to run: as the policy wrote it, or the snippet of a named tool.
        description: The policy's description of the call.
        image_index: 0-based index of the image that the call works on.
        name: Name of the tool; "" if the policy named no existing tool.
        model: If the tool is a model, the call of that model on the result of the code.
        fault: Why the call cannot run, in words that the policy can act on; None if it can run.
    """

    code: str
    description: str = ""
    image_index: int = 0
    name: str = CODE_TOOL
    model: ModelCall | None = None
    fault: str | None = None


class StopReason(Enum):
    """Why a trajectory ended."""

    ANSWERED = "answered"  # the policy gave an answer
    NO_ACTION = "no_action"  # a turn held neither a tool call nor an answer
    MAX_TURNS = "max_turns"  # the last allowed turn still called a tool
    MAX_TOKENS = "max_tokens"  # a turn was cut off before its end-of-turn token
    CONTEXT_FULL = "context_full"  # the next observation did not fit and was rolled back, text and image together


@dataclass(frozen=True)
class Reply:
    """The parsed text of a turn. Exactly one of `call`, `answer`, `fault` is not None.

    Attributes:
        call: The tool call, if the turn makes one.
        answer: The text between the answer tags.
        fault: Why the text is neither a call nor an answer, in words that the policy can act on.
        is_silent: Whether the turn attempted neither: there is nothing to fix, and the trajectory ends.
    """

    call: ToolCall | None = None
    answer: str | None = None
    fault: str | None = None
    is_silent: bool = False


@dataclass
class Turn:
    """One assistant turn and its result.

    Attributes:
        text: The decoded reply without its end-of-turn token.
        reply: The parsed text.
        observation: The executor's answer; None if nothing was executed.
        is_trained: False for a recorded turn that must not be imitated (a mistake before its correction).
        versions: Version of the weights that sampled each token; None if the policy's own weights sampled them.
        wall_s: Seconds until the reply was sampled; 0 if it was not sampled.
        tools_s: Seconds until the result of the call arrived; 0 if no call ran.
    """

    text: str
    reply: Reply
    observation: Observation | None = None
    is_trained: bool = True
    versions: list[int] | None = field(default=None, compare=False)
    wall_s: float = field(default=0.0, compare=False)
    tools_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class ViewedImage:
    """An image that a policy sees, with its place in the question's image.

    Attributes:
        image: RGB pixels; they never change.
        root: Index of the question image that it was made from.
        frame: Affine map from its pixels into the pixels of image `root`; None if unknown.
        orientation: Net orientation, one of eight, that turns image `root` into this one; None if unknown.
        turn: Index of the turn that made it, -1 for an image of the question.
    """

    image: Image.Image
    root: int = 0
    frame: Affine | None = None
    orientation: str | None = None
    turn: int = -1

    @cached_property
    def key(self) -> bytes:
        """Hash of the pixels: equal for equal images, whatever their place. Computed once."""
        return content_key(self.image)


@dataclass
class TokenSequence:
    """A conversation as token ids that grows only by appending: sampled tokens are never decoded and encoded again.

    Attributes:
        ids: Token ids, with image placeholders expanded.
        is_trained: True if the policy wrote the token; same length as `ids`.
        logprobs: Log-probability of each token under the policy that sampled it, 0.0 if `is_trained` is False.
        images: The images in the order of their placeholders in `ids`.
    """

    ids: list[int] = field(default_factory=list)
    is_trained: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    images: list[ViewedImage] = field(default_factory=list)

    def append(self, ids: Sequence[int], *, is_trained: bool, logprobs: Sequence[float] | None = None) -> None:
        """Append tokens of one author; `logprobs` are given for sampled tokens."""
        if logprobs is not None and len(logprobs) != len(ids):
            raise ValueError(f"logprobs: expected one per token, got {len(logprobs)} for {len(ids)} tokens")
        self.ids.extend(ids)
        self.is_trained.extend([is_trained] * len(ids))
        self.logprobs.extend(logprobs if logprobs is not None else [0.0] * len(ids))

    def copy(self) -> TokenSequence:
        """A sequence that grows independently of this one and shares its images."""
        return TokenSequence([*self.ids], [*self.is_trained], [*self.logprobs], [*self.images])

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Trajectory:
    """One rollout.

    Attributes:
        sample: The question.
        turns: The policy's turns, with the results of their calls.
        images: Every image that the policy has seen: the images of the question, then the results.
        tokens: The conversation as tokens.
        stop_reason: Why it ended; None while it continues.
        episode: Its name in the executor, which keeps state per episode; unique to the trajectory.
        adapted: How its requests differ from the settings because a server refused the original requests.
    """

    sample: Sample
    turns: list[Turn] = field(default_factory=list)
    images: list[ViewedImage] = field(default_factory=list)
    tokens: TokenSequence = field(default_factory=TokenSequence)
    stop_reason: StopReason | None = None
    episode: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    adapted: tuple[str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The final answer; None if none was given."""
        return self.turns[-1].reply.answer if self.turns else None

    @property
    def n_calls(self) -> int:
        """Tool calls that parsed, whether or not the code ran."""
        return sum(turn.reply.call is not None for turn in self.turns)


@dataclass
class Group:
    """The G rollouts of one sample: advantages are relative to their mean."""

    sample: Sample
    trajectories: list[Trajectory]


@dataclass(frozen=True)
class RewardBreakdown:
    """A trajectory's reward as named terms, already weighted; `total` is their sum.

    Attributes:
        terms: Weighted terms, e.g. `{"accuracy": 1.0, "format": 0.1, "usage": -0.5}`.
        is_right: Whether the answer was correct; None if a judge failed (the trajectory then gets advantage 0).
    """

    terms: dict[str, float]
    is_right: bool | None

    @property
    def total(self) -> float:
        """Sum of the terms; NaN if the answer could not be judged."""
        return float("nan") if self.is_right is None else sum(self.terms.values())


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of a step and their rewards, in the same order.

    Attributes:
        groups: P groups of G trajectories.
        breakdowns: Their rewards [P][G].
        tools_s: Seconds that the step waited for tools.
        n_prompts: Number of prompts that were rolled out, if only the best were kept.
    """

    groups: list[Group]
    breakdowns: list[list[RewardBreakdown]]
    tools_s: float = 0.0
    n_prompts: int | None = None

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, group by group."""
        return [trajectory for group in self.groups for trajectory in group.trajectories]

    @cached_property
    def pairs(self) -> list[tuple[Trajectory, RewardBreakdown]]:
        """All trajectories with their rewards, group by group."""
        return list(zip(self.trajectories, (b for of_group in self.breakdowns for b in of_group), strict=True))
