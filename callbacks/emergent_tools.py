"""Tools that no task requires: when each was first seen, how often it is used, and how accurate answers with it are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from callbacks.tool_families import family_of, verified_tools
from cv_lightning.evidence import emergent_tools
from cv_lightning.types import Rollouts

#: Columns of the table. A row describes one tool in the steps after its previous row, up to `step`.
COLUMNS = (
    "step",
    "tool",
    "family",
    "first_step",
    "trajectories",
    "uses",
    "rate",
    "accuracy_with",
    "accuracy_without",
    "gain_within_groups",
)


class EmergentTools:
    """Counts emergent tools and keeps the table of their rates and accuracies over time.

    `gain_within_groups` compares rollouts of the same question. In each group in which some judged trajectories used
    the tool and others did not, it takes the difference of their accuracies; it is the mean over these groups.

    Attributes:
        first_step: Optimizer step at which each tool was first seen.
        rows: The table, by `COLUMNS`; None if a value is not defined.
    """

    def __init__(self) -> None:
        self.first_step: dict[str, int] = {}
        self.rows: list[list[Any]] = []
        self._row_step = 0
        self._clear()

    def _clear(self) -> None:
        self._n = self._n_judged = self._n_right = 0
        self._counts: dict[str, list[float]] = {}  # uses, judged, right, groups with both, sum of their differences

    @property
    def is_empty(self) -> bool:
        """Whether no trajectory was added after the last row."""
        return self._n == 0

    def add(self, rollouts: Rollouts, step: int) -> list[str]:
        """Count the rollouts of a step; returns the tools that were seen for the first time."""
        for group, of_group in zip(rollouts.groups, rollouts.breakdowns, strict=True):
            verdicts = [
                (emergent_tools(verified_tools(trajectory)), breakdown.is_right)
                for trajectory, breakdown in zip(group.trajectories, of_group, strict=True)
            ]
            judged = [(tools, is_right) for tools, is_right in verdicts if is_right is not None]
            self._n += len(verdicts)
            self._n_judged += len(judged)
            self._n_right += sum(is_right for _, is_right in judged)
            for tool in {tool for tools, _ in verdicts for tool in tools}:
                counts = self._counts.setdefault(tool, [0.0] * 5)
                using = [is_right for tools, is_right in judged if tool in tools]
                others = [is_right for tools, is_right in judged if tool not in tools]
                counts[0] += sum(tool in tools for tools, _ in verdicts)
                counts[1] += len(using)
                counts[2] += sum(using)
                if using and others:
                    counts[3] += 1
                    counts[4] += sum(using) / len(using) - sum(others) / len(others)
        new = sorted(self._counts.keys() - self.first_step.keys())
        self.first_step |= dict.fromkeys(new, step)
        return new

    def is_due(self, step: int, every: int) -> bool:
        """Whether a row is due; a training step may take several optimizer steps and skip the due step."""
        return step // every > self._row_step // every

    def close_row(self, step: int) -> None:
        """Add a row for each tool that was ever seen, and reset the counts."""
        for tool, first in sorted(self.first_step.items(), key=lambda item: (item[1], item[0])):
            uses, judged, right, groups, gain = self._counts.get(tool, [0.0] * 5)
            others = self._n_judged - judged
            self.rows.append(
                [
                    step,
                    tool,
                    family_of(tool),
                    first,
                    self._n,
                    int(uses),
                    uses / self._n if self._n else None,
                    right / judged if judged else None,
                    (self._n_right - right) / others if others else None,
                    gain / groups if groups else None,
                ]
            )
        self._row_step = step
        self._clear()

    def write(self, path: Path) -> None:
        """Write the table as JSON in the layout of MLflow's tables."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps({"columns": COLUMNS, "data": self.rows}), encoding="utf-8")
        new.replace(path)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, in plain types."""
        return {
            "first_step": dict(self.first_step),
            "rows": [list(row) for row in self.rows],
            "row_step": self._row_step,
            "totals": [self._n, self._n_judged, self._n_right],
            "counts": {tool: list(counts) for tool, counts in self._counts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; the rows of steps after the checkpoint are counted again."""
        self.first_step = dict(state["first_step"])
        self.rows = [list(row) for row in state["rows"]]
        self._row_step = state["row_step"]
        self._n, self._n_judged, self._n_right = state["totals"]
        self._counts = {tool: list(counts) for tool, counts in state["counts"].items()}
