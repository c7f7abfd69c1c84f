"""Writes an episode turn by turn: the teacher writes, the executor runs, the checks decide; the first fault ends it."""

from __future__ import annotations

from dataclasses import dataclass

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.plan import EpisodePlan
from cv_lightning.construction.teacher import Teacher
from cv_lightning.data.oracle import take_written_turn
from cv_lightning.frames import view_question
from cv_lightning.rollout import Executor
from cv_lightning.types import StopReason, Trajectory


@dataclass(frozen=True)
class Constructed:
    """The result of a plan.

    Attributes:
        trajectory: The episode up to its fault.
        fault: The reason for its rejection, a name in `checks.REASONS`; None if it is kept.
    """

    trajectory: Trajectory
    fault: str | None


def construct(plan: EpisodePlan, teacher: Teacher, executor: Executor, checks: Checks) -> Constructed:
    """Write the episode of a plan.

    Raises:
        EndpointError: The teacher's server refuses all requests.
        RequestError: The server failed on this request.
    """
    trajectory = Trajectory(plan.sample, images=view_question(plan.sample), episode="")
    for step in plan.steps:
        text = teacher.write(plan, trajectory, step).strip()
        take_written_turn(trajectory, text, teacher.toolbox, executor, is_trained=not step.is_fault)
        fault = checks.turn_fault(plan, trajectory, step)
        if fault is not None:
            return Constructed(trajectory, fault)
    trajectory.stop_reason = StopReason.ANSWERED
    return Constructed(trajectory, checks.episode_fault(plan, trajectory))
