"""Checks of an episode against its metadata and its pixels, never against the claims of its turns.

Every rejection has a name in `REASONS`; the first reason that applies counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cv_lightning.construction.plan import EpisodePlan, PlannedStep
from cv_lightning.conversation import escape_markup
from cv_lightning.data.oracle import is_upright
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import area, gather_effects, iou, last_orientation, overlap, required_orientation
from cv_lightning.grading.benchmarks import grade
from cv_lightning.types import IMAGE, Trajectory, Turn, ViewedImage

#: Reasons to reject an episode.
REASONS: dict[str, str] = {
    "format": "a turn that does not reason first and then give exactly one call or answer",
    "markup": "a turn or a question with markup of the conversation, which would be read back differently",
    "too_long": "a turn, or the whole, longer than allowed",
    "no_reasoning": "reasoning shorter than allowed",
    "mentions_metadata": "a turn that mentions what only the teacher was told",
    "answer_leaked": "a turn that states the answer before the planned calls are made",
    "answered_early": "an answer instead of a call",
    "no_answer": "a call instead of the answer",
    "call_failed": "a call that failed, or gave no image",
    "fault_worked": "a call that should fail and did not, or failed without a message",
    "unchanged": "a call that did not change its image",
    "wrong_image": "a call on an image other than the last one",
    "not_restored": "an image that is not upright, by its net orientation or by its pixels",
    "unknown_frame": "a result whose place in the question's image is unknown",
    "crop_misses_box": "a crop that does not contain the box",
    "crop_too_wide": "a last crop whose overlap with the box is too small",
    "crops_do_not_shrink": "a crop that is not inside the one before",
    "wrong_tools": "tools with an effect other than those that the metadata requires",
    "wrong_answer": "an answer that is wrong by the sample's rule",
    "rule_not_published": "an answer rule without a name in the published RL schema",
    "request_failed": "the teacher's server refused the request",
}

_METADATA = re.compile(
    r"metadata|ground.?truth|(?:given|provided|known|supplied) (?:bounding )?(?:box|answer|coordinates)"
    r"|(?:given|provided|told|supplied) to me|as instructed|instructions? (?:that )?I\b|I was told",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"#.*")
#: Shorter answers may occur in a text by chance, unless they are codes of letters and digits.
_MIN_LEAK = 4
_CODE = re.compile(r"(?=.*[a-z])(?=.*\d)", re.IGNORECASE)
_THINK = re.compile(r"\A\s*<think>(.*?)</think>", re.DOTALL)
_SPECIAL = re.compile(r"<\|[a-z_]+\||</?tool_response>")


@dataclass(frozen=True)
class Checks:
    """Requirements on an episode.

    Attributes:
        min_containment: Minimum share of the box that every crop must show.
        min_iou: Minimum intersection over union of the last crop and the box.
        min_reasoning_chars: Minimum number of characters in a turn's reasoning.
        max_turn_chars: Maximum number of characters in a turn.
        max_chars: Maximum number of characters in all turns and observations.
        only_required_tools: Whether to reject an episode if a tool that the metadata does not require had an effect.
    """

    min_containment: float = 0.99
    min_iou: float = 0.5
    min_reasoning_chars: int = 3
    max_turn_chars: int = 4096
    max_chars: int = 16384
    only_required_tools: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_containment <= 1 or not 0 <= self.min_iou <= 1:
            raise ConfigError(
                f"checks: expected min_containment and min_iou in [0, 1], got {self.min_containment}, {self.min_iou}"
            )
        if not 0 <= self.min_reasoning_chars < self.max_turn_chars <= self.max_chars:
            raise ConfigError(
                "checks: expected 0 <= min_reasoning_chars < max_turn_chars <= max_chars, got "
                f"{self.min_reasoning_chars}, {self.max_turn_chars}, {self.max_chars}"
            )

    def turn_fault(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str | None:
        """The reason to reject the last turn, a name in `REASONS`; None if the turn is accepted."""
        turn = trajectory.turns[-1]
        if (fault := self._text_fault(turn)) is not None:
            return fault
        if step.tool != "answer" and leaks(turn, plan.sample.answer):
            return "answer_leaked"
        if step.tool == "answer":
            return "no_answer" if turn.reply.answer is None else None
        if turn.reply.call is None or turn.observation is None:
            return "answered_early"
        if step.is_fault:
            works = turn.observation.status != "error" or not turn.observation.text.strip()
            return "fault_worked" if works else None
        if turn.observation.status != "ok" or turn.observation.image is None:
            return "call_failed"
        return self._effect_fault(plan, trajectory, step)

    def _text_fault(self, turn: Turn) -> str | None:
        thought = _THINK.match(turn.text)
        if thought is None or turn.reply.fault is not None:
            return "format"
        if IMAGE in turn.text or _SPECIAL.search(turn.text):
            return "markup"
        if len(turn.text) > self.max_turn_chars:
            return "too_long"
        if len(thought.group(1).strip()) < self.min_reasoning_chars:
            return "no_reasoning"
        return "mentions_metadata" if _METADATA.search(turn.text) else None

    def _effect_fault(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str | None:
        *earlier, view = trajectory.images
        call = trajectory.turns[-1].reply.call
        if call is None or call.image_index != len(earlier) - 1:
            return "wrong_image"
        source = earlier[-1]
        if view.image.size == source.image.size and view.image.tobytes() == source.image.tobytes():
            return "unchanged"
        if view.frame is None or view.orientation is None:
            return "unknown_frame"
        if step.tool != "crop":
            return _orientation_fault(plan, trajectory, step)
        return self._crop_fault(plan, source, view, step)

    def _crop_fault(self, plan: EpisodePlan, source: ViewedImage, view: ViewedImage, step: PlannedStep) -> str | None:
        box = plan.sample.box
        if box is None or view.frame is None or source.frame is None:
            return "unknown_frame"
        shown = view.frame.box((0, 0, *view.image.size))
        before = source.frame.box((0, 0, *source.image.size))
        if overlap(shown, box) < self.min_containment * area(box):
            return "crop_misses_box"
        if area(shown) >= area(before) or overlap(shown, before) < 0.99 * area(shown):
            return "crops_do_not_shrink"
        is_last = step is [each for each in plan.steps if each.tool == "crop" and not each.is_fault][-1]
        if is_last and iou(shown, box) < self.min_iou:
            return "crop_too_wide"
        return None

    def episode_fault(self, plan: EpisodePlan, trajectory: Trajectory) -> str | None:
        """The reason to reject a whole episode; None if it is kept."""
        evidence = gather_effects(trajectory)
        if not evidence.is_well_formed:
            return "format"
        if last_orientation(trajectory) != required_orientation(plan.sample):
            return "not_restored"
        required = frozenset(plan.tools)
        if not required <= evidence.used or (self.only_required_tools and required != evidence.used):
            return "wrong_tools"
        if grade(plan.sample, trajectory.answer).score != 1.0:
            return "wrong_answer"
        texts = [turn.observation.text for turn in trajectory.turns if turn.observation is not None]
        if any(IMAGE in escape_markup(text) for text in texts):
            return "markup"
        total = sum(map(len, texts)) + sum(len(turn.text) for turn in trajectory.turns)
        return "too_long" if total > self.max_chars else None


def leaks(turn: Turn, answer: str) -> bool:
    """Whether a turn's reasoning, description or comments reveal the answer; numbers in code do not count."""
    thought, call = _THINK.match(turn.text), turn.reply.call
    said = [] if thought is None else [thought.group(1)]
    if call is not None:
        said += [call.description, *_COMMENT.findall(call.code)]
    bare = re.escape(answer.strip())
    word = rf"(?<!\w){bare}(?!\w)"
    if len(answer.strip()) < _MIN_LEAK and not _CODE.match(answer):
        word = rf"answer\W+(?:(?:is|be|reads|must be|should be)\W+)?{bare}(?!\w)"
    return bool(bare) and re.search(word, "\n".join(said), re.IGNORECASE) is not None


def _orientation_fault(plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str | None:
    """Check that the call turns the image as planned, and that the image is exactly upright after the last turn."""
    observation = trajectory.turns[-1].observation
    if observation is None or observation.image is None or observation.orientation != step.tool:
        return "not_restored"
    turns = [each for each in plan.steps if each.tool not in ("crop", "answer") and not each.is_fault]
    if step is not turns[-1]:
        return None
    return None if is_upright(observation.image, plan.sample) else "not_restored"
