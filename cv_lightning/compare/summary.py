"""Summarizes a metric over runs: its value at the end, its best value, and its curve on a common grid."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean

import numpy as np

from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run
from cv_lightning.evaluation.intervals import bootstrap_interval
from cv_lightning.reports.metrics_log import Points

#: Share of a curve's points over which its last value and the candidates for its best value are averaged.
WINDOW = 0.05

#: Metrics for which larger is better, and those for which smaller is better; for others, neither is.
_LARGER = re.compile(
    r"(?:reward/total|.*accuracy(/.*)?|.*restored_rate(/.*)?|.*required_(recall|recall/.*)|.*recovery_rate(/.*)?|"
    r".*right_after_error(/.*)?|.*exact_tools(/.*)?|.*crop_iou(/.*)?|tools/success.*|throughput/.*per_s|throughput/mfu)$"
)
_SMALLER = re.compile(
    r"(?:.*loss|.*error.*|test/drop(/.*)?|tools/spurious_rate|rl/logprob_gap|health/(truncation|alarms)|time/.*|"
    r"throughput/(step_s|call_s|.*memory_mb))$"
)

#: Metrics shown in the terminal and as curves by default, if any run logged them.
HEADLINE = (
    "test/accuracy/mean",
    "val/accuracy/mean",
    "reward/total",
    "rollout/accuracy",
    "rollout/tool_rate",
    "rollout/turns",
    "tools/required_recall",
    "tools/error_rate",
    "tools/emergent_rate",
    "tools/lane/*",
    "health/length",
    "rl/entropy",
    "rl/kl",
    "rl/zero_variance_groups",
    "train/loss",
    "throughput/step_s",
)


@dataclass(frozen=True)
class Value:
    """A number of a group.

    Attributes:
        mean: Mean over the runs that have the number.
        interval: 95 % bootstrap interval; None for a single run without answers.
        of_runs: The number of each run.
    """

    mean: float
    interval: tuple[float, float] | None
    of_runs: list[float]


@dataclass(frozen=True)
class Metric:
    """A metric of a group.

    Attributes:
        final: Value at the end: mean over the last `WINDOW` of its points.
        best: The best such mean anywhere; None for a single point, or if neither direction is better.
        best_step: The step at which the best window ends, averaged over the runs.
    """

    final: Value
    best: Value | None
    best_step: float | None


def value_of(numbers: Sequence[float]) -> Value | None:
    """The mean over runs with its interval; None if there are no numbers."""
    if not numbers:
        return None
    spread = bootstrap_interval(numbers) if len(numbers) > 1 else None
    return Value(fmean(numbers), spread, list(numbers))


def summarize(group: RunGroup, name: str) -> Metric | None:
    """Summarize a metric of a group; None if no run logged it."""
    curves = group.curves(name)
    final = value_of([windows(points)[-1][1] for points in curves])
    if final is None:
        return None
    better = direction(name)
    if not better or all(len(points) < 2 for points in curves):
        return Metric(final, None, None)
    tops = [max(windows(points), key=lambda point: better * point[1]) for points in curves]
    return Metric(final, value_of([value for _, value in tops]), sum(step for step, _ in tops) / len(tops))


def windows(points: Points) -> Points:
    """(last step, mean) of every window that covers a share of `WINDOW` of the points, at least one point."""
    length = max(1, round(WINDOW * len(points)))
    return [
        (points[end - 1][0], sum(value for _, value in points[end - length : end]) / length)
        for end in range(length, len(points) + 1)
    ]


def direction(name: str) -> int:
    """1 if larger is better, -1 if smaller is better, 0 if neither is."""
    # Names with "right after an error" or "accuracy" are matched before those with "error".
    return 1 if _LARGER.match(name) else -1 if _SMALLER.match(name) else 0


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match any pattern (`rl/*`), in the order of the patterns, without duplicates."""
    return list(dict.fromkeys(name for pattern in patterns for name in sorted(names) if fnmatchcase(name, pattern)))


def over_minutes(run: Run, points: Points) -> Points:
    """Convert a curve over steps to one over minutes of training; empty if no step was timed."""
    if not run.minutes or len(points) < 2:
        return []
    steps = [step for step, _ in run.minutes]
    placed = []
    for step, value in points:
        before = bisect_right(steps, step)
        placed.append((run.minutes[max(0, before - 1)][1], value))
    return placed


def on_grid(curves: Sequence[Points], n: int = 120) -> list[Points]:
    """Interpolate curves linearly at common x values, from the latest start to the earliest end.

    Curves of several seeds can only be averaged at common x values; minutes are never common.
    """
    curves = [points for points in curves if points]
    if not curves:
        return []
    low, high = max(points[0][0] for points in curves), min(points[-1][0] for points in curves)
    if high <= low:
        return [[points[-1]] for points in curves]
    grid = np.linspace(low, high, n)
    values = [np.interp(grid, [place for place, _ in points], [value for _, value in points]) for points in curves]
    return [list(zip(grid.tolist(), of_curve.tolist(), strict=True)) for of_curve in values]
