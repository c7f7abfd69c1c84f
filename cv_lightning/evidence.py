"""The parts of a trajectory that a reward may count: two readings of the reward's formula.

`gather_claims` is the published reading: it guesses tools and boxes from the *text* of the policy, whether or not its
code ran. `gather_effects` counts the *effects* on the pixels:

- a tool counts if its call ran; the orientation tool of a call is the net orientation that it produced, by any route;
- the orientation part is all or nothing: the last image that the policy saw must have the required orientation, so
  turning there and back, turning by 90 degrees four times, or viewing the unturned image again pays nothing;
- a crop is measured in pixels of the question's image, through the frames of all turns;
- a rotation, flip or crop counts only if it can still be seen in its result (`sandbox/effects/detail.py`);
- a call that could not be parsed counts as a call, because it takes a turn;
- reasoning needs words, and the answer counts only if exactly one is given outside the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from cv_lightning.codevision_claims import claimed_boxes, claimed_tools
from cv_lightning.tools.reply_text import read_turn, tagged_spans
from cv_lightning.types import Box, Sample, Trajectory
from sandbox.effects.detail import keeps_detail, shows_turn
from sandbox.geometry import ORIENTATIONS, compose, inverse

ORIENTATION_TOOLS = frozenset(ORIENTATIONS) - {"identity"}

#: Tools that the published formula counts as required ones; everything else is "emergent".
CORE_TOOLS = ORIENTATION_TOOLS | {"crop"}

#: "rotate" is a rotation by an angle other than a quarter turn: it avoids the required tools and is not a discovery.
_NOT_EMERGENT = CORE_TOOLS | {"rotate"}

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class Evidence:
    """The values that the formula needs from one trajectory, as a preset reads them.

    Attributes:
        required: The set E.
        used: The set U.
        orientation_credit: Required orientation tools that count as done.
        n_orientation_changes: Orientation changes made.
        best_iou: Best overlap of a crop with the sample's box.
        n_calls: Calls that a penalty counts.
        n_new_views: Calls that showed something new.
        is_well_formed: Whether the text has the required format.
        answer: The answer that counts, or None.
    """

    required: frozenset[str]
    used: frozenset[str]
    orientation_credit: int
    n_orientation_changes: int
    best_iou: float
    n_calls: int
    n_new_views: int
    is_well_formed: bool
    answer: str | None


def gather_claims(trajectory: Trajectory) -> Evidence:
    """Evidence from the code and description of every executed call, failed or not, as the release reads them."""
    sample = trajectory.sample
    # The release ends a trajectory before it reads a call that is not executed.
    calls = [
        turn.reply.call for turn in trajectory.turns if turn.reply.call is not None and turn.observation is not None
    ]
    used: frozenset[str] = frozenset()
    boxes: list[Box] = []
    for call in calls:
        used |= claimed_tools(call.code, call.description)
        boxes += claimed_boxes(call.code, call.description)
    ious = [iou(box, sample.box) for box in boxes] if sample.box is not None else []
    return Evidence(
        required=sample.required_tools,
        used=used,
        orientation_credit=len(sample.required_tools & used & ORIENTATION_TOOLS),
        n_orientation_changes=len(used & ORIENTATION_TOOLS),
        best_iou=max(ious, default=0.0),
        n_calls=len(calls),
        n_new_views=len(calls),
        is_well_formed=_has_published_format(trajectory),
        answer=trajectory.answer,
    )


def _has_published_format(trajectory: Trajectory) -> bool:
    text = "".join(turn.text for turn in trajectory.turns).strip()
    answers, thoughts = tagged_spans(text, "answer"), tagged_spans(text, "think")
    is_closed = text.startswith("<think>") and text.count("<think>") == text.count("</think>")
    if not is_closed or len(answers) != 1 or not text.endswith("</answer>"):
        return False
    begins, ends = answers[0]
    return not any(
        "<answer>" in text[start:end] and (start < begins < end or start < ends < end) for start, end in thoughts
    )


def gather_effects(trajectory: Trajectory) -> Evidence:
    """Evidence from the effects of the calls that ran; code, comments and descriptions are ignored."""
    sample = trajectory.sample
    # Without a box, a good crop cannot be told from a bad one, so a crop is neither required nor paid.
    required = sample.required_tools - ({"crop"} if sample.box is None else frozenset())
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
    # One move that undoes two transforms is as exact as two moves.
    if is_restored and used & ORIENTATION_TOOLS == {net}:
        used = (used - ORIENTATION_TOOLS) | (required & ORIENTATION_TOOLS)
    return Evidence(
        required=required,
        used=frozenset(used),
        orientation_credit=len(required & ORIENTATION_TOOLS) if is_restored else 0,
        n_orientation_changes=n_orientation_changes,
        best_iou=_best_iou(trajectory),
        n_calls=_n_attempts(trajectory),
        n_new_views=_n_new_views(trajectory),
        is_well_formed=_has_format(trajectory),
        answer=trajectory.answer if trajectory.turns and _answers_once(trajectory.turns[-1].text) else None,
    )


def emergent_tools(used: Iterable[str]) -> frozenset[str]:
    """The tools among `used` that no task requires."""
    return frozenset(used) - _NOT_EMERGENT


def call_outcomes(trajectory: Trajectory) -> list[bool]:
    """Whether each attempted call ran; a call that did not parse is an attempt that failed."""
    outcomes = []
    for turn in trajectory.turns:
        if turn.reply.call is not None and turn.observation is not None:
            outcomes.append(turn.observation.status == "ok")
        elif turn.reply.fault is not None and not turn.reply.is_silent:
            outcomes.append(False)
    return outcomes


def _n_attempts(trajectory: Trajectory) -> int:
    """Turns that called or tried to call: a call that cannot be parsed must not be cheaper than a call that runs."""
    replies = [turn.reply for turn in trajectory.turns]
    return sum(reply.call is not None or (reply.fault is not None and not reply.is_silent) for reply in replies)


def _n_new_views(trajectory: Trajectory) -> int:
    """Number of results with a verified effect whose image the policy had not seen before."""
    seen: set[bytes] = set()
    n_new = 0
    for image in trajectory.images:
        observation = trajectory.turns[image.turn].observation if image.turn >= 0 else None
        n_new += observation is not None and bool(observation.tools) and image.key not in seen
        seen.add(image.key)
    return n_new


def is_restored(trajectory: Trajectory) -> bool:
    """Whether the last image that the policy saw is exactly upright; an image that needed no turn also counts."""
    return last_orientation(trajectory) == required_orientation(trajectory.sample)


def required_orientation(sample: Sample) -> str:
    """The net orientation that undoes the sample's transforms; "identity" for an upright image."""
    turns = [name for name in sample.transforms if name in ORIENTATION_TOOLS]
    return inverse(reduce(compose, turns, "identity"))


def last_orientation(trajectory: Trajectory) -> str | None:
    """Net orientation, relative to the question's first image, of the last image that the policy saw.

    None if it is unknown, if the image was made from another image of the question, or if the change of orientation
    cannot be seen in the result.
    """
    results = [image for image in trajectory.images if image.turn >= 0]
    if not results:
        return "identity"
    last, first = results[-1], trajectory.images[0].image
    is_turned = last.orientation != "identity"
    if last.root != 0 or (is_turned and not shows_turn(last.image, first, last.frame, last.orientation)):
        return None
    return last.orientation


def _orientations_of(tools: Sequence[str], net: str | None) -> frozenset[str]:
    """The net orientation if it is known, so that every route to it counts the same; else the orientation tools."""
    if net is None:
        return frozenset(tools) & ORIENTATION_TOOLS
    return frozenset({net}) - {"identity"}


def _best_iou(trajectory: Trajectory) -> float:
    """Best IoU of the box with a crop that still shows its region, in pixels of the question's first image."""
    if trajectory.sample.box is None:
        return 0.0
    best = 0.0
    for image in trajectory.images:
        observation = trajectory.turns[image.turn].observation if 0 <= image.turn < len(trajectory.turns) else None
        if observation is None or "crop" not in observation.tools or image.frame is None or image.root != 0:
            continue
        width, height = image.image.size
        overlap_of_box = iou(image.frame.box((0, 0, width, height)), trajectory.sample.box)
        first = trajectory.images[0].image
        if overlap_of_box > best and keeps_detail(image.image, first, image.frame, image.orientation):
            best = overlap_of_box
    return best


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 if they share nothing."""
    shared = overlap(first, second)
    return shared / (area(first) + area(second) - shared) if shared > 0 else 0.0


def area(box: Box) -> float:
    """Square pixels of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(first: Box, second: Box) -> float:
    """Square pixels that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def _answers_once(text: str) -> bool:
    """Whether the turn, parsed as in a rollout, holds one pair of answer tags with no reasoning between them."""
    turn = read_turn(text)
    n_tags = turn.words.count("<answer>"), turn.words.count("</answer>")
    return n_tags == (1, 1) and all(f"<answer>{answer}</answer>" in text for answer in turn.answers)


def _has_one_answer(text: str) -> bool:
    """Whether the text holds exactly one closed answer outside balanced reasoning tags."""
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
    return depth == 0 and answers == 1 and not inside_answer


def _begins_with_words(text: str) -> bool:
    """Whether a turn opens with reasoning that holds a letter or a digit outside its tags."""
    opening, _, rest = text.lstrip().partition("<think>")
    reasoning, closing, _ = rest.partition("</think>")
    return not opening and bool(closing) and any(letter.isalnum() for letter in _TAG.sub("", reasoning))


def _has_format(trajectory: Trajectory) -> bool:
    """Whether every turn opens with reasoning and then acts, and only the last turn answers, once, at its end."""
    if not trajectory.turns:
        return False
    *earlier, last = trajectory.turns
    acts = all(turn.reply.call is not None for turn in earlier) and last.reply.answer is not None
    reasons = all(_begins_with_words(turn.text) for turn in trajectory.turns)
    return acts and reasons and _has_one_answer(last.text) and last.text.rstrip().endswith("</answer>")
