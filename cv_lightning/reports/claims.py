"""The claims of arXiv 2512.03746, and the evidence for each from the arms of `experiments/paper`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from cv_lightning.data.worlds.strategy import STRATEGY_FAMILIES
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.evidence import CORE_TOOLS, ORIENTATION_TOOLS
from cv_lightning.reports.arms import Arm, Arms, BySeed, differences, each, missing, values
from cv_lightning.reports.verdicts import (
    Finding,
    Verdict,
    at_least,
    at_most,
    exceeds,
    falls,
    is_not_lower,
    overall,
    shown,
)

ALL = tuple(name for name in STRATEGY_FAMILIES if name != "locate")
#: Families that need a strategy.
STRATEGIC = ("find", "find_turned", "small")
#: Number of crops and turns that solve a family; other families need none.
N_NEEDED = {"turned": 1, "find": 1, "find_turned": 2, "small": 2}
#: Share of the logged steps that count as the start and as the end of a curve.
ENDS = 0.1
#: Logged RL steps whose rollouts still count as those of the initial policy; later rollouts reflect training.
FIRST_STEPS = 2
#: Mean accuracy over this many logged steps at which a family counts as learned.
LEARNED, WINDOW = 0.8, 10


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: Short name.
        paper: The paper's statement, and its figure.
        arms: The stages that it needs; the first one shows the claim.
        judge: Makes the findings from the arms.
        shows: Whether an answer of the first arm is an example of the claim.
    """

    name: str
    paper: str
    arms: tuple[str, ...]
    judge: Callable[[Arms], list[Finding]]
    shows: Callable[[AnswerRecord], bool]


def is_right(record: AnswerRecord) -> float:
    """1 for a right answer."""
    return float(record.is_right)


def has_filter(record: AnswerRecord) -> float:
    """1 if a tool that no task requires had an effect."""
    return float(bool(record.emergent))


def has_call(record: AnswerRecord) -> float:
    """1 if a tool was called."""
    return float(record.n_calls > 0)


def n_calls(record: AnswerRecord) -> float:
    """Number of calls."""
    return float(record.n_calls)


def n_spurious(record: AnswerRecord) -> float | None:
    """Number of turns of an image that requires none; None if it requires one."""
    if ORIENTATION_TOOLS & set(record.required):
        return None
    return float(sum(tool in ORIENTATION_TOOLS for tools in record.tools for tool in tools))


def operations_per_call(record: AnswerRecord) -> float | None:
    """Mean number of operations per call; None if no call ran."""
    return fmean(map(len, record.tools)) if record.tools else None


def solved_in_one_call(record: AnswerRecord) -> float:
    """1 for a right answer after one call."""
    return float(record.is_right and record.n_calls == 1)


def right_after_mistake(record: AnswerRecord) -> float | None:
    """1 for a right answer, 0 for a wrong one, if a call failed or was wrong; None if all calls were right.

    Calls are wrong if they make a turn that the image does not require, or more crops and turns than its family needs.
    """
    core = [tool for tools in record.tools for tool in tools if tool in CORE_TOOLS]
    is_wrong = bool((set(core) & ORIENTATION_TOOLS) - set(record.required))
    is_wrong |= len(core) > N_NEEDED.get(record.family, 0)
    return is_right(record) if is_wrong or False in record.outcomes else None


def _brittleness(arms: Arms) -> list[Finding]:
    lost = []
    for arm in each(arms, "base"):
        turned = {record.id.partition("-")[2]: record for record in arm.answers.values() if record.family == "turned"}
        upright = {record.id.partition("-")[2]: record for record in arm.answers.values() if record.family == "read"}
        lost.append([is_right(upright[key]) - is_right(turned[key]) for key in upright if key in turned])
    return [
        at_least("base, upright plates (read)", values(arms, "base", ("read",), is_right), 0.97),
        at_most("base, the same plates turned", values(arms, "base", ("turned",), is_right), 0.15),
        exceeds("upright - turned, the same plates", lost),
    ]


def _rl_after_sft(arms: Arms) -> list[Finding]:
    of_families = [
        at_least(f"rl on {name}", values(arms, "rl", (name,), is_right), 0.85)
        for name in ("find", "find_turned", "turned")
    ]
    return [
        shown("sft, all families", values(arms, "sft", ALL, is_right)),
        shown("rl, all families", values(arms, "rl", ALL, is_right)),
        exceeds("rl - sft, all families", differences(arms, "rl", "sft", ALL, is_right), 0.12),
        *of_families,
    ]


def _dense(arms: Arms) -> list[Finding]:
    other = "rl_outcome_only"
    differing = [
        exceeds(f"rl - {other} on {name}", differences(arms, "rl", other, (name,), is_right)) for name in STRATEGIC
    ]
    steps = [
        shown(f"{arm}: steps to {LEARNED:.0%} on {name}", steps_to(each(arms, arm), name), unit="")
        for name in STRATEGIC
        for arm in ("rl", other)
    ]
    return [*differing, *steps]


def _strategy(arms: Arms) -> list[Finding]:
    return [
        exceeds(f"rl - rl_no_strategy on {name}", differences(arms, "rl", "rl_no_strategy", (name,), is_right))
        for name in STRATEGIC
    ]


def _penalties(arms: Arms) -> list[Finding]:
    other = "rl_no_penalties"
    return [
        falls(f"calls per question, rl - {other}", differences(arms, "rl", other, ALL, n_calls), unit=""),
        falls(f"spurious turns, rl - {other}", differences(arms, "rl", other, ALL, n_spurious), unit=""),
        is_not_lower(f"accuracy, rl - {other}", differences(arms, "rl", other, ALL, is_right)),
    ]


def _no_cold_start(arms: Arms) -> list[Finding]:
    return [
        at_most("rl without sft: answers with a call", values(arms, "rl_without_sft", ALL, has_call), 0.02),
        at_least("rl after sft: answers with a call", values(arms, "rl", ALL, has_call), 0.5),
    ]


def _emergent(arms: Arms) -> list[Finding]:
    faded, rl = ("faded",), each(arms, "rl")
    gained = []
    for arm in rl:
        pairs = [(arm.answers[key], arm.alone[key]) for key in arm.alone if arm.alone[key].family == "faded"]
        gained.append([is_right(one) - is_right(other) for one, other in pairs])
    gain = [[max(0.0, change) for change in of_seed] for of_seed in gained]
    harm = [[max(0.0, -change) for change in of_seed] for of_seed in gained]
    first = [[value for _, value in arm.curves.get("tools/emergent_rate/faded", ())[:FIRST_STEPS]] for arm in rl]
    return [
        at_most("faded: rollouts with a filter, first steps of RL", first, 0.05, n_least=1),
        shown("faded: answers with a filter before RL", values(arms, "sft", faded, has_filter)),
        at_least("faded: answers with a filter after RL", values(arms, "rl", faded, has_filter), 0.5),
        exceeds("faded: accuracy, rl - sft", differences(arms, "rl", "sft", faded, is_right), 0.2),
        shown("faded: answers that tools made right", gain),
        shown("faded: answers that tools made wrong", harm),
        exceeds("faded: gain - harm of tools, the same questions", gained),
    ]


def _chains(arms: Arms) -> list[Finding]:
    family = ("find_turned",)
    return [
        exceeds(
            "find_turned: operations per call, rl - sft",
            differences(arms, "rl", "sft", family, operations_per_call),
            unit="",
        ),
        shown("find_turned: solved in one call, sft", values(arms, "sft", family, solved_in_one_call)),
        exceeds(
            "find_turned: solved in one call, rl - sft", differences(arms, "rl", "sft", family, solved_in_one_call)
        ),
    ]


def _recovery(arms: Arms) -> list[Finding]:
    return [
        shown("sft: right after a failed or wrong call", values(arms, "sft", ALL, right_after_mistake)),
        at_least("rl: right after a failed or wrong call", values(arms, "rl", ALL, right_after_mistake), 0.8),
    ]


def _hackable(arms: Arms) -> list[Finding]:
    published, effects = each(arms, "rl_published"), each(arms, "rl")
    paid = [[max(value for _, value in points)] if (points := arm.curves.get("claims/paid")) else [] for arm in effects]
    rise = "published: rollouts that claim a tool without its effect, end - start of RL"
    return [
        exceeds(rise, [_rise(arm, "claims/without_effects") for arm in published]),
        shown("published: rollouts paid for a claim, end", [_ends(arm, "claims/paid")[1] for arm in published]),
        at_most("effects: rollouts paid for a claim, worst step", paid, 0.0, n_least=1),
    ]


def _ends(arm: Arm, metric: str) -> tuple[list[float], list[float]]:
    """The values of the first and of the last steps of a curve, of equal number."""
    points = [value for _, value in arm.curves.get(metric, ())]
    n = max(1, round(ENDS * len(points))) if len(points) > 1 else 0
    return points[:n], points[len(points) - n :]


def _rise(arm: Arm, metric: str) -> list[float]:
    start, end = _ends(arm, metric)
    return [after - before for before, after in zip(start, end, strict=True)]


def steps_to(arms: Sequence[Arm], family: str) -> BySeed:
    """The step at which `WINDOW` logged steps first have a mean accuracy of `LEARNED`, by seed; empty if none have."""
    found = []
    for arm in arms:
        points = arm.curves.get(f"components/accuracy/{family}", [])
        windows = (points[at : at + WINDOW] for at in range(len(points) - WINDOW + 1))
        steps = [window[-1][0] for window in windows if fmean(value for _, value in window) >= LEARNED]
        found.append(steps[:1])
    return found


def _always(record: AnswerRecord) -> bool:
    return True


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "brittleness",
        "accuracy falls by up to 80 % if images are turned or mirrored",
        ("base",),
        _brittleness,
        lambda record: record.family == "turned" and not record.is_right,
    ),
    Claim(
        "RL after SFT",
        "MVToolBench 26.6 after SFT, 60.1 after RL",
        ("rl", "sft"),
        _rl_after_sft,
        lambda record: record.family == "find_turned" and record.is_right,
    ),
    Claim(
        "dense beats outcome only",
        "strategy reward 50.7 -> 60.1",
        ("rl", "rl_outcome_only"),
        _dense,
        lambda record: record.family == "small" and record.is_right,
    ),
    Claim(
        "the strategy terms teach",
        "without mandatory and exact 50.7, with them 60.1",
        ("rl", "rl_no_strategy"),
        _strategy,
        lambda record: record.family == "find" and record.is_right,
    ),
    Claim(
        "penalties keep it lean",
        "V* 71.2 without, 83.7 with penalties",
        ("rl", "rl_no_penalties"),
        _penalties,
        lambda record: record.family == "decoy" and record.is_right and not record.n_calls,
    ),
    Claim(
        "no cold start, no tools",
        "tool turns fall to zero by step 30 without SFT",
        ("rl_without_sft", "rl"),
        _no_cold_start,
        lambda record: record.family == "find" and not record.n_calls,
    ),
    Claim(
        "emergent tools",
        "examples of filters that nothing required",
        ("rl", "sft"),
        _emergent,
        lambda record: record.family == "faded" and record.is_right and bool(record.emergent),
    ),
    Claim(
        "chains",
        "examples of several operations in one call",
        ("rl", "sft"),
        _chains,
        lambda record: record.family == "find_turned" and bool(solved_in_one_call(record)),
    ),
    Claim(
        "recovery",
        "examples of errors that are corrected",
        ("rl", "sft"),
        _recovery,
        lambda record: right_after_mistake(record) == 1.0,
    ),
    Claim(
        "the released reward is hackable",
        "not a claim of the paper: its reward reads code and description, not effects",
        ("rl_published", "rl"),
        _hackable,
        _always,
    ),
)


def judge_claims(arms: Arms) -> list[dict[str, Any]]:
    """All claims in plain values: each with its arms, findings and verdict, or the reason why it cannot be judged."""
    return [_judged(claim, arms) for claim in CLAIMS]


def _judged(claim: Claim, arms: Arms) -> dict[str, Any]:
    reason = missing(arms, claim.arms)
    findings = [] if reason else claim.judge(arms)
    verdict = overall(findings)
    if not reason and verdict == Verdict.NOT_JUDGED:
        reason = "; ".join(finding.text for finding in findings if finding.verdict == Verdict.NOT_JUDGED)
    return {
        "name": claim.name,
        "paper": claim.paper,
        "arms": list(claim.arms),
        "verdict": verdict.value,
        "reason": reason,
        "findings": [asdict(finding) for finding in findings],
        "example": _example(claim, arms),
    }


def _example(claim: Claim, arms: Arms) -> dict[str, Any] | None:
    """An answer of the first arm that shows the claim, from the first seed with such an answer."""
    for seed, of_seed in arms.items():
        arm = of_seed.get(claim.arms[0])
        if not isinstance(arm, Arm):
            continue
        for record in arm.answers.values():
            if claim.shows(record):
                return {
                    "seed": seed,
                    "arm": claim.arms[0],
                    "id": record.id,
                    "turns": record.turns,
                    "answer": record.answer,
                    "truth": record.truth,
                    "folder": str(arm.folder),
                }
    return None
