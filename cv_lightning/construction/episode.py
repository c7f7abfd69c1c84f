"""One episode, turn by turn: the teacher writes, the executor runs, the checks look; the first fault ends it."""

from __future__ import annotations

from dataclasses import dataclass

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.plan import Plan
from cv_lightning.construction.teacher import Teacher
from cv_lightning.conversation import parse_reply
from cv_lightning.frames import view_question, view_result
from cv_lightning.rollout import Executor, refusal, request_of
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.types import StopReason, Trajectory, Turn


@dataclass(frozen=True)
class Constructed:
    """What came of a plan.

    Attributes:
        trajectory: The episode as far as it was written.
        fault: Why it is rejected, a name of `checks.REASONS`; None where it is kept.
    """

    trajectory: Trajectory
    fault: str | None


def construct(plan: Plan, teacher: Teacher, executor: Executor, checks: Checks) -> Constructed:
    """Write the episode of a plan.

    Raises:
        EndpointError: The teacher's server refuses every request.
        RequestError: It failed this one.
    """
    trajectory = Trajectory(plan.sample, images=view_question(plan.sample), episode="")
    toolbox = make_toolbox(teacher.toolbox)
    for number, step in enumerate(plan.steps):
        text = teacher.write(plan, trajectory, step).strip()
        turn = Turn(text, parse_reply(text, toolbox), is_trained=not step.is_fault)
        trajectory.turns.append(turn)
        call = turn.reply.call
        if call is not None:
            turn.observation = refusal(turn.reply)
            if call.fault is None:
                (turn.observation,) = executor.execute([request_of(trajectory, call)])
            if turn.observation.image is not None:
                trajectory.images.append(view_result(trajectory, call, turn.observation, number))
        fault = checks.turn_fault(plan, trajectory, step)
        if fault is not None:
            return Constructed(trajectory, fault)
    trajectory.stop_reason = StopReason.ANSWERED
    return Constructed(trajectory, checks.episode_fault(plan, trajectory))
