"""Which tools the policy uses: by their verified effect, never by what the code says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.rollouts import RolloutCallback
from cv_lightning.evaluation import call_outcomes
from cv_lightning.evidence import CORE_TOOLS
from cv_lightning.types import Group, RewardBreakdown, Trajectory

#: All other tools are emergent. As in the reward, a turn by another angle is a way around the required ones.
_NOT_EMERGENT = CORE_TOOLS | {"rotate"}


class ToolUsage(RolloutCallback):
    """Logs `tools/...` of each training step with rollouts; see `tool_metrics`.

    `tools/first_step/<tool>` is logged once per emergent tool: the optimizer step at which it was first seen, also over
    a resume. In a run of several processes the numbers are those of the first one's groups.
    """

    def __init__(self) -> None:
        self.first_step: dict[str, int] = {}
        self._seen: set[str] = set()

    def on_rollout(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        groups: Sequence[Group],
        breakdowns: Sequence[Sequence[RewardBreakdown]],
    ) -> None:
        """Log the step."""
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        self._seen.update(*map(verified_tools, trajectories))
        metrics = tool_metrics(trajectories, self._seen)
        for tool in sorted(self._seen - _NOT_EMERGENT - self.first_step.keys()):
            self.first_step[tool] = trainer.global_step
            metrics[f"tools/first_step/{tool}"] = float(trainer.global_step)
        pl_module.log_dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"first_step": dict(self.first_step), "seen": sorted(self._seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was seen."""
        self.first_step = dict(state_dict["first_step"])
        self._seen = set(state_dict["seen"])


def verified_tools(trajectory: Trajectory) -> frozenset[str]:
    """Canonical names of the tools whose effect is in the pixels of a result."""
    return frozenset(
        tool
        for turn in trajectory.turns
        if turn.observation is not None and turn.observation.status == "ok"
        for tool in turn.observation.tools
    )


def tool_metrics(trajectories: Sequence[Trajectory], tools: frozenset[str] | set[str]) -> dict[str, float]:
    """Numbers about the tools of some trajectories.

    - `tools/calls`: calls per trajectory (turns are the module's `rollout/turns`).
    - `tools/error_rate`: attempted calls that failed or did not parse; absent without attempts.
    - `tools/recovery_rate`: trajectories with a failed call in which a later one ran; absent without failed calls.
    - `tools/emergent_rate`: trajectories with a tool that no task requires.
    - `tools/used/<tool>`: trajectories with that tool, for all of `tools`.

    Rates are shares in [0, 1].
    """
    if not trajectories:
        return {}
    used = [verified_tools(trajectory) for trajectory in trajectories]
    outcomes = [call_outcomes(trajectory) for trajectory in trajectories]
    n_attempts = sum(map(len, outcomes))
    with_errors = [ran for ran in outcomes if False in ran]
    metrics = {
        "tools/calls": sum(trajectory.n_calls for trajectory in trajectories) / len(trajectories),
        "tools/emergent_rate": sum(bool(names - _NOT_EMERGENT) for names in used) / len(used),
    }
    if n_attempts:
        metrics["tools/error_rate"] = sum(ran.count(False) for ran in outcomes) / n_attempts
    if with_errors:
        metrics["tools/recovery_rate"] = sum(True in ran[ran.index(False) :] for ran in with_errors) / len(with_errors)
    for tool in sorted(tools):
        metrics[f"tools/used/{tool}"] = sum(tool in names for names in used) / len(used)
    return metrics
