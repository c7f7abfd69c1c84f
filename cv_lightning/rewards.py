"""From a group of trajectories to named reward terms: pure functions, no torch.

The formula is CodeVision's (arXiv 2512.03746). With E the tools that undo what was done to the image, U the tools used and
core = the orientation tools and crop:

    accuracy     1 if the answer is right; times `mandatory` where E holds a crop and `mandatory` < 0.1
    format       the shape of the text
    mandatory    (required orientation tools in U + [crop in E and U] * best IoU of a crop with the box) / |E|
    necessity    right, with tools, fewer than 2 of the group right without: accuracy with tools - accuracy without, at least 0
    exact        E and core is not empty and equals U and core
    emergence    right, and U holds a tool outside core
    usage        calls beyond max(2, |E|)                                    (subtracted)
    spurious     orientation changes where E has none                        (subtracted)

Two presets read it. "published" (`published_tools.py`) is the release's reading: tools and boxes are guessed from what the
policy *wrote*. "effects" (here), the default, counts what *happened*, and departs where the published reading pays for a trick:

- a call's orientation tool is the net orientation it produced, whatever route its code took;
- the orientation part of `mandatory` is all or nothing: the image the policy looked at last must stand as the transforms
  require, so that there-and-back, four turns of 90 or looking at the unturned image again pay nothing;
- the IoU is measured in pixels of the question's image, through the frames of all turns;
- `exact` needs the mandatory part to be met as well (a crop by IoU >= 0.1);
- `emergence` is paid only where fewer than 2 rollouts of the group were right without such a tool: decorating an image that
  can be read as it is pays nothing;
- the answer counts, and the text has its format, only where exactly one answer stands outside of the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

from cv_lightning import published_tools
from cv_lightning.answers import is_right
from cv_lightning.errors import ConfigError
from cv_lightning.types import Box, Group, RewardBreakdown, Sample, Trajectory
from sandbox.geometry import ORIENTATIONS, compose, inverse

Preset = Literal["effects", "published"]

#: (question, prediction, truth) -> right, wrong, or None where it could not be judged. Asked only where the rules say wrong.
AnswerJudge = Callable[[str, str, str], bool | None]

ORIENTATION_TOOLS = frozenset(ORIENTATIONS) - {"identity"}

#: Tools that the published formula counts as required ones; everything else is "emergent".
CORE_TOOLS = ORIENTATION_TOOLS | {"crop"}

#: Below this share of the mandatory part a right answer about a crop is "poor reasoning".
POOR_REASONING = 0.1

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class RewardConfig:
    """How a trajectory is paid. The defaults are the paper's weights; `usage` and `spurious` are subtracted.

    All weights 0 but `accuracy` is reinforcement by the outcome alone.

    Attributes:
        preset: "effects" or "published"; see the module.
        accuracy: Weight of a right answer.
        format: Weight of well-formed text.
        mandatory: Weight of doing what the image needs. At 0 poor reasoning does not lower the accuracy term either.
        necessity: Weight of tools that made the difference within the group.
        exact: Weight of using the needed core tools and no others.
        emergence: Weight of a tool outside the core in a right trajectory.
        usage: Penalty per call beyond max(2, |E|).
        spurious: Penalty per orientation change that nothing asked for.
    """

    preset: Preset = "effects"
    accuracy: float = 1.0
    format: float = 0.1
    mandatory: float = 1.0
    necessity: float = 0.0
    exact: float = 0.1
    emergence: float = 0.2
    usage: float = 0.5
    spurious: float = 0.5

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"Expected preset to be one of {', '.join(get_args(Preset))} but got {self.preset!r}")
        for name in TERMS:
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"Expected {name} >= 0 but got {name}={getattr(self, name)}; penalties are subtracted as they are"
                )


#: Names of the terms, in the order of the formula; each is in every breakdown.
TERMS = ("accuracy", "format", "mandatory", "necessity", "exact", "emergence", "usage", "spurious")


@dataclass(frozen=True)
class Evidence:
    """What a preset found in one trajectory; the formula needs no more.

    Attributes:
        required: The set E.
        used: The set U.
        orientation_credit: Required orientation tools that count as done.
        n_orientation_changes: Orientation changes made.
        best_iou: Best overlap of a crop with the sample's box.
        is_well_formed: Whether the text has the format.
        answer: The answer that counts.
    """

    required: frozenset[str]
    used: frozenset[str]
    orientation_credit: int
    n_orientation_changes: int
    best_iou: float
    is_well_formed: bool
    answer: str | None


def score(group: Group, config: RewardConfig, judge: AnswerJudge | None = None) -> list[RewardBreakdown]:
    """Reward every trajectory of a group.

    Args:
        group: The rollouts of one sample.
        config: Weights and preset.
        judge: Asked about answers that the rules call wrong; where it fails the reward is NaN, never a wrong 0.

    Returns:
        One breakdown per trajectory, in order; its terms are weighted and all of `TERMS`.
    """
    gather = gather_effects if config.preset == "effects" else gather_claims
    evidence_G = [gather(trajectory) for trajectory in group.trajectories]
    is_right_G = [_judge(group.sample, evidence.answer, judge) for evidence in evidence_G]
    with_tools_G = [
        bool(evidence.used) if config.preset == "effects" else trajectory.n_calls > 0
        for evidence, trajectory in zip(evidence_G, group.trajectories, strict=True)
    ]
    necessity = _necessity(is_right_G, with_tools_G)
    pays_emergence = config.preset == "published" or _n_right_without_emergent(is_right_G, evidence_G) < 2
    breakdowns = []
    for trajectory, evidence, right, with_tools in zip(
        group.trajectories, evidence_G, is_right_G, with_tools_G, strict=True
    ):
        values = _values(evidence, trajectory.n_calls, right is True, config)
        values["necessity"] = necessity if right and with_tools else 0.0
        values["emergence"] *= pays_emergence
        terms = {name: getattr(config, name) * values[name] for name in TERMS}
        breakdowns.append(RewardBreakdown(terms=terms, is_right=right))
    return breakdowns


def _values(evidence: Evidence, n_calls: int, right: bool, config: RewardConfig) -> dict[str, float]:
    """The unweighted terms that need no group; penalties are negative."""
    required, used = evidence.required, evidence.used
    mandatory = _mandatory(evidence)
    accuracy = float(right)
    if "crop" in required and mandatory < POOR_REASONING and config.mandatory > 0:
        accuracy *= mandatory
    is_exact = bool(required & CORE_TOOLS) and required & CORE_TOOLS == used & CORE_TOOLS
    if config.preset == "effects":
        is_exact = is_exact and _is_met(evidence)
    needs_turning = bool(required & ORIENTATION_TOOLS)
    return {
        "accuracy": accuracy,
        "format": float(evidence.is_well_formed),
        "mandatory": mandatory,
        "exact": float(is_exact),
        "emergence": float(right and bool(_emergent(used))),
        "usage": -float(max(0, n_calls - max(2, len(required)))),
        "spurious": 0.0 if needs_turning else -float(evidence.n_orientation_changes),
    }


def _mandatory(evidence: Evidence) -> float:
    if not evidence.required:
        return 0.0
    crop = evidence.best_iou if "crop" in evidence.required & evidence.used else 0.0
    return min(1.0, (evidence.orientation_credit + crop) / len(evidence.required))


def _is_met(evidence: Evidence) -> bool:
    is_turned = evidence.orientation_credit == len(evidence.required & ORIENTATION_TOOLS)
    return is_turned and ("crop" not in evidence.required or evidence.best_iou >= POOR_REASONING)


def _emergent(used: frozenset[str]) -> frozenset[str]:
    # A turn by a few degrees more or less than 90 is a way around the orientation tools, not a discovery.
    return used - CORE_TOOLS - {"rotate"}


def _judge(sample: Sample, answer: str | None, judge: AnswerJudge | None) -> bool | None:
    if answer is None or is_right(answer, sample.answer):
        return answer is not None
    return False if judge is None else judge(sample.question, answer, sample.answer)


def _necessity(is_right_G: Sequence[bool | None], with_tools_G: Sequence[bool]) -> float:
    """How much more often rollouts with tools were right; 0 where 2 were right without. Unjudged ones do not count."""
    judged = [(right, tools) for right, tools in zip(is_right_G, with_tools_G, strict=True) if right is not None]
    with_tools = [right for right, tools in judged if tools]
    without = [right for right, tools in judged if not tools]
    if sum(without) >= 2:
        return 0.0
    return max(0.0, _mean(with_tools) - _mean(without))


def _n_right_without_emergent(is_right_G: Sequence[bool | None], evidence_G: Sequence[Evidence]) -> int:
    return sum(
        right is True and not _emergent(evidence.used) for right, evidence in zip(is_right_G, evidence_G, strict=True)
    )


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


# --- published: what was written ---


def gather_claims(trajectory: Trajectory) -> Evidence:
    """The release's reading: regular expressions over code and description of every call, whether or not it ran."""
    sample = trajectory.sample
    calls = [turn.reply.call for turn in trajectory.turns if turn.reply.call is not None]
    used: frozenset[str] = frozenset()
    boxes: list[Box] = []
    for call in calls:
        used |= published_tools.claimed_tools(f"{call.code}\n{call.description}")
        boxes += published_tools.claimed_boxes(f"{call.code}\n{call.description}")
    ious = [iou(box, sample.box) for box in boxes] if sample.box is not None else []
    return Evidence(
        required=sample.required_tools,
        used=used,
        orientation_credit=len(sample.required_tools & used & ORIENTATION_TOOLS),
        n_orientation_changes=len(used & ORIENTATION_TOOLS),
        best_iou=max(ious, default=0.0),
        is_well_formed=_has_published_format(trajectory),
        answer=trajectory.answer,
    )


def _has_published_format(trajectory: Trajectory) -> bool:
    text = "".join(turn.text for turn in trajectory.turns).strip()
    return (
        text.startswith("<think>")
        and text.count("<think>") == text.count("</think>")
        and text.count("<answer>") == text.count("</answer>") == 1
        and text.endswith("</answer>")
    )


# --- effects: what happened ---


def gather_effects(trajectory: Trajectory) -> Evidence:
    """What the calls that ran did to the pixels; code, comments and descriptions are not looked at."""
    sample = trajectory.sample
    required = sample.required_tools
    used: set[str] = set()
    n_orientation_changes = 0
    for turn in trajectory.turns:
        observation = turn.observation
        if turn.reply.call is None or observation is None or observation.status != "ok":
            continue
        turned = _orientations_of(observation.tools, observation.orientation)
        n_orientation_changes += len(turned)
        used |= turned | (frozenset(observation.tools) - ORIENTATION_TOOLS)
    net = required_orientation(sample)
    is_restored = last_orientation(trajectory) == net
    # Two transforms may be undone in one move: that is as exact as one after the other.
    if is_restored and used & ORIENTATION_TOOLS == {net}:
        used = (used - ORIENTATION_TOOLS) | (required & ORIENTATION_TOOLS)
    return Evidence(
        required=required,
        used=frozenset(used),
        orientation_credit=len(required & ORIENTATION_TOOLS) if is_restored else 0,
        n_orientation_changes=n_orientation_changes,
        best_iou=_best_iou(trajectory),
        is_well_formed=_has_format(trajectory),
        answer=trajectory.answer if trajectory.turns and _has_one_answer(trajectory.turns[-1].text) else None,
    )


def required_orientation(sample: Sample) -> str:
    """The net orientation that undoes the sample's transforms; "identity" for an upright image."""
    turns = [name for name in sample.transforms if name in ORIENTATION_TOOLS]
    return inverse(reduce(compose, turns, "identity"))


def last_orientation(trajectory: Trajectory) -> str | None:
    """Net orientation, relative to the question's first image, of the image that the policy looked at last."""
    results = [image for image in trajectory.images if image.turn >= 0]
    if not results:
        return "identity"
    return results[-1].orientation if results[-1].root == 0 else None


def _orientations_of(tools: Sequence[str], net: str | None) -> frozenset[str]:
    """The net orientation where it is known, so that all lanes and all routes count alike; else what the tools say."""
    if net is None:
        return frozenset(tools) & ORIENTATION_TOOLS
    return frozenset({net}) - {"identity"}


def _best_iou(trajectory: Trajectory) -> float:
    """Best overlap of a cropped view with the sample's box, in pixels of the question's first image."""
    if trajectory.sample.box is None:
        return 0.0
    best = 0.0
    for image in trajectory.images:
        observation = trajectory.turns[image.turn].observation if 0 <= image.turn < len(trajectory.turns) else None
        if observation is None or "crop" not in observation.tools or image.frame is None or image.root != 0:
            continue
        width, height = image.image.size
        best = max(best, iou(image.frame.box((0, 0, width, height)), trajectory.sample.box))
    return best


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 where one is empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def _has_one_answer(text: str) -> bool:
    """True where exactly one closed answer stands outside of balanced reasoning, and nothing follows it."""
    depth, answers, inside_answer = 0, 0, False
    for match in _TAG.finditer(text):
        tag = match.group()
        if tag == "<think>":
            depth += 1
        elif tag == "</think>":
            depth -= 1
        elif depth == 0:
            answers += tag == "<answer>"
            if inside_answer == (tag == "<answer>"):
                return False
            inside_answer = not inside_answer
        if depth < 0 or (inside_answer and depth > 0):
            return False
    return depth == 0 and answers == 1 and not inside_answer and text.rstrip().endswith("</answer>")


def _has_format(trajectory: Trajectory) -> bool:
    """Every turn opens with reasoning and acts; the last one, and only it, answers once."""
    if not trajectory.turns:
        return False
    *earlier, last = trajectory.turns
    acts = all(turn.reply.call is not None for turn in earlier) and last.reply.answer is not None
    reasons = all(turn.text.lstrip().startswith("<think>") for turn in trajectory.turns)
    return acts and reasons and _has_one_answer(last.text)
