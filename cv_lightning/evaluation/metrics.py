"""Metrics of robustness and tool use, by the transforms of the image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS, UPRIGHT
from cv_lightning.evidence import call_outcomes, is_restored
from cv_lightning.types import RewardBreakdown, Trajectory

_SHORT = {transforms[0]: label for label, transforms in ORIENTATION_CONDITIONS.items() if transforms} | {"crop": "crop"}

#: Label for all chains that are longer than these.
OTHER_LABEL = "other"

_CHAINS = [chain for length in (1, 2, 3) for chain in product(_SHORT.values(), repeat=length)]

#: Every label that a sample may get; the list is fixed, so that processes can add their tables.
LABELS = (UPRIGHT, *("+".join(chain) for chain in _CHAINS), OTHER_LABEL)
_ROW = {label: row for row, label in enumerate(LABELS)}

#: Counts per label, in the order of the table's columns.
_COUNTS = (
    "trajectories",
    "judged",
    "right",
    "with_calls",
    "restored",
    "turns",
    "calls",
    "attempts",
    "errors",
    "with_errors",
    "recovered",
)

#: Metric -> (numerator, denominator) among the counts.
_RATES = {
    "accuracy": ("right", "judged"),
    "tool_rate": ("with_calls", "trajectories"),
    "restored_rate": ("restored", "trajectories"),
    "mean_turns": ("turns", "trajectories"),
    "n_calls": ("calls", "trajectories"),
    "error_rate": ("errors", "attempts"),
    "recovery_rate": ("recovered", "with_errors"),
}


def orientation_label(transforms: Sequence[str]) -> str:
    """The label of a sample's transforms: "upright", "rot90", "rot90+crop", ..., "other" for more than three."""
    label = "+".join(_SHORT[name] for name in transforms) or UPRIGHT
    return label if label in _ROW else OTHER_LABEL


class TrajectoryMetrics(Metric):
    """Accuracy and tool use per label, and their unweighted means over the labels that occurred.

    `compute` returns `{"accuracy/rot90": .., "accuracy/mean": .., ...}` for accuracy (judged answers only), tool_rate
    (trajectories with a call), restored_rate, mean_turns, n_calls (per trajectory), error_rate (calls that failed or
    did not parse, per attempt) and recovery_rate (trajectories with a failed call in which a later call ran). A metric
    has no key if nothing was counted for it.
    """

    full_state_update = False
    table: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("table", torch.zeros(len(LABELS), len(_COUNTS)), dist_reduce_fx="sum")

    def update(self, trajectories: Sequence[Trajectory], breakdowns: Sequence[RewardBreakdown]) -> None:
        """Count trajectories and their breakdowns, which must be in the same order."""
        if len(trajectories) != len(breakdowns):
            raise ValueError(
                f"breakdowns: expected one per trajectory, got {len(breakdowns)} for {len(trajectories)} trajectories"
            )
        for trajectory, breakdown in zip(trajectories, breakdowns, strict=True):
            row = _ROW[orientation_label(trajectory.sample.transforms)]
            counts = _count(trajectory, breakdown)
            self.table[row] += torch.tensor([counts[name] for name in _COUNTS], device=self.table.device)

    def compute(self) -> dict[str, float]:
        """The metrics by name."""
        rows = {label: dict(zip(_COUNTS, self.table[_ROW[label]].tolist(), strict=True)) for label in LABELS}
        metrics: dict[str, float] = {}
        for name, (above, below) in _RATES.items():
            rates = {label: row[above] / row[below] for label, row in rows.items() if row[below]}
            metrics |= {f"{name}/{label}": rate for label, rate in rates.items()}
            if rates:
                metrics[f"{name}/mean"] = sum(rates.values()) / len(rates)
        return metrics


def _count(trajectory: Trajectory, breakdown: RewardBreakdown) -> dict[str, float]:
    outcomes = call_outcomes(trajectory)
    first_error = outcomes.index(False) if False in outcomes else len(outcomes)
    return {
        "trajectories": 1.0,
        "judged": float(breakdown.is_right is not None),
        "right": float(breakdown.is_right is True),
        "with_calls": float(trajectory.n_calls > 0),
        "restored": float(is_restored(trajectory)),
        "turns": float(len(trajectory.turns)),
        "calls": float(trajectory.n_calls),
        "attempts": float(len(outcomes)),
        "errors": float(outcomes.count(False)),
        "with_errors": float(False in outcomes),
        "recovered": float(True in outcomes[first_error:]),
    }
