"""Computes named reward terms for a group of trajectories, in pure functions without torch.

The formula is CodeVision's (arXiv 2512.03746). E is the set of tools that undo the changes to the image, U the set of
used tools, and core is the orientation tools and crop:

    accuracy     1 if the answer is right; times `mandatory` if E holds a crop and `mandatory` < 0.1
    format       1 if the text has the conversation's shape
    mandatory    (required orientation tools in U + [crop in E and U] * best IoU of a crop with the box) / |E|
    necessity    accuracy of the group's rollouts with tools - without, at least 0, for right rollouts with tools,
                 only if some went without and fewer than 2 of them were right
    exact        1 if E and core is not empty and equals U and core
    emergence    1 if right and U holds a tool outside core
    interaction  calls that showed something new, in a right rollout    (PyVision-RL, arXiv 2602.20739; off by default)
    usage        calls beyond max(2, |E|)                               (subtracted)
    spurious     orientation changes if E has none                      (subtracted)

With `manner_in="solved_groups"`, `format`, `usage` and `spurious` are 0 in a group without a right answer.

`overlong` is DAPO's soft punishment of long replies (arXiv 2503.14476, eq. 13), off by default.

A preset determines U, the IoU, the calls, the format and the answer (`evidence.py`): "published" reads the *text* of
the policy, as the release does; "effects", the default, counts the *effects* of its calls. Three terms also depend on
the preset in this module:

- under "effects", `exact` also requires the mandatory part (a crop needs IoU >= 0.1);
- under "effects", `emergence` is paid only if some rollouts of the group used no such tool and all of these were
  wrong: a tool that the image does not need pays nothing, nor does a tool that every rollout of the group used;
- under "published", `necessity` is 0 if the crop is poor.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from cv_lightning.errors import ConfigError
from cv_lightning.evidence import CORE_TOOLS, ORIENTATION_TOOLS, Evidence, emergent_tools, gather_claims, gather_effects
from cv_lightning.grading.judge import AnswerJudge
from cv_lightning.grading.rules import is_right
from cv_lightning.types import Group, RewardBreakdown, Sample

Preset = Literal["effects", "published"]
MannerIn = Literal["all_groups", "solved_groups"]

#: The judge is asked only about answers at most this many characters longer than the truth: an answer too long for the
#: judge to read in time must not earn more than a wrong answer.
LONGEST_ANSWER = 2000

#: If the mandatory term is below this value, a right answer about a crop is "poor reasoning".
POOR_REASONING = 0.1


@dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward terms. The defaults are the paper's weights; the last three terms are subtracted.

    If all weights but `accuracy` are 0, only the outcome is rewarded.

    Attributes:
        preset: "effects" or "published"; see `evidence.py`.
        accuracy: Weight of a right answer.
        format: Weight of well-formed text.
        mandatory: Weight of the tools that the image needs. If 0, poor reasoning does not lower the accuracy term.
        necessity: Weight of tools that made the difference within the group.
        exact: Weight of using the needed core tools and no others.
        emergence: Weight of a tool outside the core in a right trajectory.
        interaction: Weight of a call that showed something new in a right trajectory (PyVision-RL: 0.1). It pays for
            every such call, needed or not; if `usage` is larger, calls beyond max(2, |E|) still cost.
        usage: Penalty per call beyond max(2, |E|).
        spurious: Penalty per orientation change if E requires none.
        manner_in: Groups in which `format`, `usage` and `spurious` count: "all_groups", as in the paper, or
            "solved_groups", those with a right answer. If no rollout is right, these terms teach only to stop trying.
        overlong: Penalty of a trajectory of `overlong_max_tokens` sampled tokens.
        overlong_max_tokens: DAPO's L_max, in sampled tokens of all turns.
        overlong_cache_tokens: DAPO's L_cache: the penalty grows over this many tokens before L_max.
    """

    preset: Preset = "effects"
    accuracy: float = 1.0
    format: float = 0.1
    mandatory: float = 1.0
    necessity: float = 0.0
    exact: float = 0.1
    emergence: float = 0.2
    interaction: float = 0.0
    usage: float = 0.5
    spurious: float = 0.5
    manner_in: MannerIn = "all_groups"
    overlong: float = 0.0
    overlong_max_tokens: int = 20480
    overlong_cache_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"reward.preset: expected one of {', '.join(get_args(Preset))}, got {self.preset!r}")
        if self.manner_in not in get_args(MannerIn):
            raise ConfigError(
                f"reward.manner_in: expected one of {', '.join(get_args(MannerIn))}, got {self.manner_in!r}"
            )
        for name in TERMS:
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"reward.{name}: expected at least 0, got {getattr(self, name)}. "
                    "Write penalties as positive numbers."
                )
        if not 0 < self.overlong_cache_tokens <= self.overlong_max_tokens:
            raise ConfigError(
                "reward.overlong_cache_tokens: expected more than 0 and at most overlong_max_tokens="
                f"{self.overlong_max_tokens}, got {self.overlong_cache_tokens}"
            )


#: Names of the terms, in the order of the formula; each is in every breakdown.
TERMS = (
    "accuracy",
    "format",
    "mandatory",
    "necessity",
    "exact",
    "emergence",
    "interaction",
    "usage",
    "spurious",
    "overlong",
)


def score(group: Group, config: RewardConfig, judge: AnswerJudge | None = None) -> list[RewardBreakdown]:
    """Reward every trajectory of a group.

    Args:
        group: The rollouts of one sample.
        config: Weights and preset.
        judge: Asked about answers that the rules call wrong; if it is down, the reward is NaN, never a wrong 0. An
            answer more than `LONGEST_ANSWER` characters longer than the truth is wrong without asking.

    Returns:
        One breakdown per trajectory, in order, with all of `TERMS`, weighted.
    """
    gather = gather_effects if config.preset == "effects" else gather_claims
    evidence_G = [gather(trajectory) for trajectory in group.trajectories]
    is_right_G = _judge(group.sample, [evidence.answer for evidence in evidence_G], judge)
    with_tools_G = [
        bool(evidence.used) or (config.preset == "published" and evidence.n_calls > 0) for evidence in evidence_G
    ]
    necessity = _necessity(is_right_G, with_tools_G)
    is_plainly_right = [
        right
        for right, evidence in zip(is_right_G, evidence_G, strict=True)
        if right is not None and not emergent_tools(evidence.used)
    ]
    counts_manner = config.manner_in == "all_groups" or True in is_right_G
    pays_emergence = config.preset == "published" or (bool(is_plainly_right) and not any(is_plainly_right))
    breakdowns = []
    for trajectory, evidence, right, with_tools in zip(
        group.trajectories, evidence_G, is_right_G, with_tools_G, strict=True
    ):
        values = _values(evidence, right is True, config)
        is_poor = config.preset == "published" and _is_poor(evidence, values["mandatory"])
        values["necessity"] = necessity if right and with_tools and not is_poor else 0.0
        values["emergence"] *= pays_emergence
        for name in ("format", "usage", "spurious"):
            values[name] *= counts_manner
        n_sampled = sum(trajectory.tokens.is_trained)
        values["overlong"] = overlong_penalty(n_sampled, config.overlong_max_tokens, config.overlong_cache_tokens)
        terms = {name: getattr(config, name) * values[name] for name in TERMS}
        breakdowns.append(RewardBreakdown(terms=terms, is_right=right))
    return breakdowns


def _values(evidence: Evidence, right: bool, config: RewardConfig) -> dict[str, float]:
    """The unweighted terms that need no group; penalties are negative."""
    required, used = evidence.required, evidence.used
    mandatory = _mandatory(evidence)
    accuracy = float(right)
    if _is_poor(evidence, mandatory) and config.mandatory > 0:
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
        "emergence": float(right and bool(emergent_tools(used))),
        "interaction": float(right * evidence.n_new_views),
        "usage": 0.0 - max(0, evidence.n_calls - max(2, len(required))),
        "spurious": 0.0 if needs_turning else 0.0 - evidence.n_orientation_changes,
    }


def _is_poor(evidence: Evidence, mandatory: float) -> bool:
    return "crop" in evidence.required and mandatory < POOR_REASONING


def overlong_penalty(n_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """0 up to L_max - L_cache tokens, then linearly down to -1 at L_max (DAPO, arXiv 2503.14476, eq. 13)."""
    n_over = n_tokens - (max_tokens - cache_tokens)
    return 0.0 - min(1.0, max(0.0, n_over / cache_tokens))


def _mandatory(evidence: Evidence) -> float:
    if not evidence.required:
        return 0.0
    crop = evidence.best_iou if "crop" in evidence.required & evidence.used else 0.0
    return min(1.0, (evidence.orientation_credit + crop) / len(evidence.required))


def _is_met(evidence: Evidence) -> bool:
    is_turned = evidence.orientation_credit == len(evidence.required & ORIENTATION_TOOLS)
    return is_turned and ("crop" not in evidence.required or evidence.best_iou >= POOR_REASONING)


def _judge(sample: Sample, answers: Sequence[str | None], judge: AnswerJudge | None) -> list[bool | None]:
    # `sample.rule` is not used: a lenient rule ("contains") would pay an answer that lists everything.
    truths = (sample.answer, *sample.alternatives)
    verdicts: dict[str | None, bool | None] = {
        answer: any(is_right(answer, truth) for truth in truths) for answer in answers
    }
    longest = LONGEST_ANSWER + len(sample.answer)
    doubtful = [answer for answer, verdict in verdicts.items() if answer and not verdict and len(answer) <= longest]
    if judge is not None and doubtful:
        with ThreadPoolExecutor(max_workers=len(doubtful)) as pool:
            asked = pool.map(lambda answer: judge(sample.question, answer, sample.answer), doubtful)
            verdicts.update(zip(doubtful, asked, strict=True))
    return [verdicts[answer] for answer in answers]


def _necessity(is_right_G: Sequence[bool | None], with_tools_G: Sequence[bool]) -> float:
    """Accuracy of rollouts with tools minus accuracy of rollouts without, at least 0; unjudged rollouts do not count.

    0 if at least 2 were right without tools, or if one of the two sides is empty: then there is nothing to compare.
    """
    judged = [(right, tools) for right, tools in zip(is_right_G, with_tools_G, strict=True) if right is not None]
    with_tools = [right for right, tools in judged if tools]
    without = [right for right, tools in judged if not tools]
    if not with_tools or not without or sum(without) >= 2:
        return 0.0
    return max(0.0, fmean(with_tools) - fmean(without))
