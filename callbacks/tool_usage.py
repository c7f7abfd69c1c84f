"""Metrics of the tools that the policy uses, by their verified effect and never by the text of the code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.emergent_tools import EmergentTools
from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.rollouts import RolloutCallback
from callbacks.tool_families import FAMILIES, failure_of, family_of, tools_of, verified_tools
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import ORIENTATION_TOOLS, Evidence, call_outcomes, emergent_tools, gather_effects
from cv_lightning.types import Rollouts, Trajectory
from sandbox.types import Observation


class ToolUsage(RolloutCallback):
    """Logs `tools/...` of each training step with rollouts, and keeps the table of emergent tools.

    See `tool_metrics`. `tools/first_step/<tool>` is logged once per emergent tool: the optimizer step at which it was
    first seen. The table (`EmergentTools`) is written to `<default_root_dir>/emergent_tools.json` and sent to MLflow
    every `table_every_n_steps`. A resumed run continues the table. In a run of several processes, the metrics are those
    of the first process's groups.

    Args:
        table_every_n_steps: Optimizer steps that a row of the table covers.

    Raises:
        ConfigError: `table_every_n_steps` below 1.
    """

    def __init__(self, table_every_n_steps: int = 25) -> None:
        if table_every_n_steps < 1:
            raise ConfigError(f"ToolUsage: table_every_n_steps: expected at least 1, got {table_every_n_steps}")
        self.table_every_n_steps = table_every_n_steps
        self.emergent = EmergentTools()
        self._seen: set[str] = set()

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Measure the step; write the table if it is due."""
        step = trainer.global_step
        self._seen.update(*map(verified_tools, rollouts.trajectories))
        metrics = tool_metrics(rollouts.trajectories, self._seen)
        for tool in self.emergent.add(rollouts, step):
            metrics[f"tools/first_step/{tool}"] = float(step)
        if self.emergent.is_due(step, self.table_every_n_steps):
            self._write(trainer, step)
        return metrics

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a row for the steps after the last row."""
        if not self.emergent.is_empty:
            self._write(trainer, trainer.global_step)

    def _write(self, trainer: Trainer, step: int) -> None:
        self.emergent.close_row(step)
        if trainer.is_global_zero and self.emergent.rows:
            path = Path(trainer.default_root_dir) / "emergent_tools.json"
            self.emergent.write(path)
            for logger in trainer.loggers:
                if isinstance(logger, BackgroundMLflowLogger):
                    logger.log_table(path)

    def state_dict(self) -> dict[str, Any]:
        """The tools seen so far, and the table."""
        return {"seen": sorted(self._seen), "emergent": self.emergent.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the tools and the table."""
        self._seen = set(state_dict["seen"])
        self.emergent.load_state_dict(state_dict["emergent"])


def tool_metrics(trajectories: Sequence[Trajectory], tools: Collection[str]) -> dict[str, float]:
    """Metrics of the tools of some trajectories.

    Args:
        trajectories: Trajectories of one step.
        tools: Canonical names that get a metric `tools/used/<tool>`, whether or not they were used.

    Returns:
        The metrics `tools/...` that docs/metrics.md explains; undefined metrics are absent.
    """
    if not trajectories:
        return {}
    used = [verified_tools(trajectory) for trajectory in trajectories]
    is_emergent = [bool(emergent_tools(names)) for names in used]
    of_family: dict[str, list[bool]] = {}
    for trajectory, value in zip(trajectories, is_emergent, strict=True):
        of_family.setdefault(trajectory.sample.family, []).append(value)
    metrics = {
        "tools/calls": sum(trajectory.n_calls for trajectory in trajectories) / len(trajectories),
        "tools/emergent_rate": sum(is_emergent) / len(is_emergent),
        **{f"tools/emergent_rate/{name}": sum(of) / len(of) for name, of in of_family.items() if len(of_family) > 1},
        **{f"tools/used/{tool}": sum(tool in names for names in used) / len(used) for tool in sorted(tools)},
    }
    return {**metrics, **_outcomes(trajectories), **_histogram(trajectories), **_fit_for_task(trajectories)}


def _outcomes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How calls ended: by kind of failure, by lane, and whether a trajectory recovered from its failures."""
    outcomes = [call_outcomes(trajectory) for trajectory in trajectories]
    n_attempts = sum(map(len, outcomes))
    metrics: dict[str, float] = {}
    if n_attempts:
        metrics["tools/success_rate"] = sum(ran.count(True) for ran in outcomes) / n_attempts
        metrics["tools/error_rate"] = sum(ran.count(False) for ran in outcomes) / n_attempts
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        for kind, count in Counter(filter(None, map(failure_of, turns))).items():
            metrics[f"tools/error/{kind}"] = count / n_attempts
        seen = [turn.observation for turn in turns if turn.observation is not None and turn.reply.call]
        seen = [observation for observation in seen if observation.lane != "none"]
        for lane in {observation.lane for observation in seen}:
            ran = [observation.status == "ok" for observation in seen if observation.lane == lane]
            metrics[f"tools/success/{lane}"] = sum(ran) / len(ran)
        for place, count in Counter(map(_place, seen)).items():
            metrics[f"tools/lane/{place}"] = count / len(seen)
    with_errors = [ran for ran in outcomes if False in ran]
    if with_errors:
        metrics["tools/recovery_rate"] = sum(True in ran[ran.index(False) :] for ran in with_errors) / len(with_errors)
    return metrics


def _place(observation: Observation) -> str:
    """The lane that ran a call, with the suffix "_close" if its exactness is "close"."""
    return observation.lane + ("_close" if observation.exactness == "close" else "")


def _histogram(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Tools of the calls that ran; each tool counts once per call."""
    chains = [
        tools_of(turn)
        for trajectory in trajectories
        for turn in trajectory.turns
        if turn.reply.call is not None and turn.observation is not None and turn.observation.status == "ok"
    ]
    uses = Counter(tool for chain in chains for tool in dict.fromkeys(chain))
    n_uses = uses.total()
    metrics: dict[str, float] = {}
    if chains:
        metrics["tools/chain_length"] = sum(map(len, chains)) / len(chains)
    if n_uses:
        of_family = Counter[str]()
        for tool, count in uses.items():
            of_family[family_of(tool)] += count
        metrics |= {f"tools/family/{family}": of_family[family] / n_uses for family in FAMILIES}
        metrics["tools/entropy"] = -sum(n / n_uses * math.log(n / n_uses) for n in uses.values()) or 0.0
    return metrics


def _fit_for_task(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Whether the policy used the tools that the images needed."""
    evidence = [gather_effects(trajectory) for trajectory in trajectories]
    recalls = [_recall(one) for one in evidence if one.required]
    upright = [one for one in evidence if not one.required & ORIENTATION_TOOLS]
    metrics: dict[str, float] = {}
    if recalls:
        metrics["tools/required_recall"] = sum(recalls) / len(recalls)
    if upright:
        metrics["tools/spurious_rate"] = sum(one.n_orientation_changes > 0 for one in upright) / len(upright)
    return metrics


def _recall(evidence: Evidence) -> float:
    has_crop = "crop" in evidence.required & evidence.used
    return (evidence.orientation_credit + has_crop) / len(evidence.required)
