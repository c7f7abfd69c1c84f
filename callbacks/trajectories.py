"""Saves trajectories to read: as JSON lines with PNG files, as a page, and as traces in MLflow.

The files are described in docs/trajectories.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.credit import turn_credits
from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.rollouts import RolloutCallback
from callbacks.tool_families import verified_tools
from callbacks.trajectory_choice import Picked, has_recovered, pick
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import emergent_tools
from cv_lightning.rewards import RewardConfig
from cv_lightning.types import Rollouts, Trajectory
from cv_lightning.viewer.recording import describe, save_image, write_records


class Trajectories(RolloutCallback):
    """Writes `<folder>/step_<n>/` at intervals: `trajectories.jsonl`, `images/*.png` and `index.html`.

    The page embeds its images, loads nothing, and shows the policy's text only as text. The first process writes its
    own rollouts; a `BackgroundMLflowLogger` also sends the folder, and each trajectory as a trace.

    Args:
        folder: Target; None takes `<default_root_dir>/trajectories`.
        every_n_steps: Optimizer steps between two folders; the first training step is always written.
        n: Number of trajectories of each kind: best, worst, recovered, emergent, sampled.
        whole_groups: Groups that are written with all their rollouts, to be compared side by side.
        traces: Whether trajectories are sent to MLflow as traces.

    Raises:
        ConfigError: `every_n_steps` or `n` below 1, `whole_groups` below 0.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        every_n_steps: int = 100,
        n: int = 4,
        whole_groups: int = 2,
        traces: bool = True,
    ) -> None:
        for name, value, least in (("every_n_steps", every_n_steps, 1), ("n", n, 1), ("whole_groups", whole_groups, 0)):
            if value < least:
                raise ConfigError(f"Trajectories: {name}: expected at least {least}, got {value}")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.n = n
        self.whole_groups = whole_groups
        self.traces = traces
        self._last_period = -1
        self._cannot_write = False

    def on_rollout(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> dict[str, float]:
        """Write the step if it is due; measures nothing."""
        # A training step may take several optimizer steps and skip the due step.
        period = trainer.global_step // self.every_n_steps
        if period != self._last_period:
            self._last_period = period
            if trainer.is_global_zero:
                self._write(trainer, pl_module, rollouts)
        return {}

    def _write(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        folder = Path(trainer.default_root_dir) / "trajectories" if self.folder is None else Path(self.folder)
        step = trainer.global_step
        target = folder / f"step_{step:08d}"
        picked = pick(rollouts.groups, rollouts.breakdowns, self.n, seed=step, n_whole_groups=self.whole_groups)
        try:
            write_trajectories(picked, target, f"Step {step}", step, getattr(pl_module, "reward_config", None))
        except OSError as error:  # no reason to stop training
            self._say_once(target, error)
            return
        for logger in trainer.loggers:
            if isinstance(logger, BackgroundMLflowLogger):
                logger.log_artifact(target, f"trajectories/{target.name}")
                if self.traces:
                    logger.log_traces(target, step)

    def _say_once(self, target: Path, error: OSError) -> None:
        if not self._cannot_write:
            rank_zero_warn(f"Trajectories: cannot write {target} ({error}). Training continues without them.")
        self._cannot_write = True

    def state_dict(self) -> dict[str, int]:
        """The interval of the folder that was written last."""
        return {"last_period": self._last_period}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after that interval."""
        self._last_period = state_dict["last_period"]


def write_trajectories(
    picked: Sequence[Picked], folder: Path, title: str, step: int = 0, reward: RewardConfig | None = None
) -> Path:
    """Write trajectories as files of `folder`; returns the page.

    Files are named by content and position, never by what a data set or the policy wrote.

    Args:
        picked: The trajectories to write.
        folder: Target; created if it does not exist.
        title: Title of the page.
        step: The optimizer step.
        reward: How the trajectories were scored; without it turns have no credit.

    Raises:
        OSError: The folder cannot be written.
    """
    return write_records([record(one, folder, step, reward) for one in picked], folder, title)


def record(picked: Picked, folder: Path, step: int = 0, reward: RewardConfig | None = None) -> dict[str, Any]:
    """A trajectory as JSON (docs/trajectories.md); its images are saved below `folder`."""
    trajectory, breakdown = picked.trajectory, picked.breakdown
    sample = trajectory.sample
    total = breakdown.total
    credits = turn_credits(trajectory, breakdown, reward) if reward is not None else None
    described = describe(trajectory, partial(save_image, folder=folder), credits)
    counts = turn_tokens(trajectory)
    turns = [{**turn, "tokens": counts[index] if counts else None} for index, turn in enumerate(described["turns"])]
    return described | {
        "turns": turns,
        "kind": picked.kind,
        "step": step,
        "group": picked.group,
        "rollout": picked.rollout,
        "truth": sample.answer,
        "required_tools": sorted(sample.required_tools),
        "box": sample.box,
        "is_right": breakdown.is_right,
        "reward": total if math.isfinite(total) else None,
        "terms": breakdown.terms,
        "n_tokens": sum(trajectory.tokens.is_trained),
        "has_recovered": has_recovered(trajectory),
        "emergent": sorted(emergent_tools(verified_tools(trajectory))),
    }


def turn_tokens(trajectory: Trajectory) -> list[dict[str, int]]:
    """Tokens that the policy read before each turn (`read`, including images) and wrote in the turn (`written`).

    Empty if the turns cannot be told apart, for instance if a recorded turn is not trained on.
    """
    counts, position = [], 0
    for is_written, run in itertools.groupby(trajectory.tokens.is_trained):
        length = sum(1 for _ in run)
        if is_written:
            counts.append({"read": position, "written": length})
        position += length
    return counts if len(counts) == len(trajectory.turns) else []
