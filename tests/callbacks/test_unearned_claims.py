"""Claims without effects: their number, and whether they were paid."""

from __future__ import annotations

from PIL import Image

from callbacks.unearned_claims import claim_metrics
from cv_lightning.conversation import format_answer, format_call, parse_reply
from cv_lightning.data.oracle import take_written_turn
from cv_lightning.frames import view_question
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.rollout import Executor
from cv_lightning.types import Group, Rollouts, Sample, StopReason, ToolCall, Trajectory, Turn
from sandbox import ToolExecutor


def rolled(code: str, executor: Executor) -> Trajectory:
    """One call on an image that was rotated by 90 degrees, and the right answer."""
    image = Image.linear_gradient("L").convert("RGB").crop((0, 0, 40, 30))
    sample = Sample("a", "Read.", (image,), "F7", ("rotate_90",))
    trajectory = Trajectory(sample, images=view_question(sample))
    take_written_turn(trajectory, format_call("Turned.", ToolCall(code)), "code", executor, is_trained=True)
    text = format_answer("Upright.", "F7")
    trajectory.turns.append(Turn(text, parse_reply(text)))
    trajectory.stop_reason = StopReason.ANSWERED
    return trajectory


def measured(config: RewardConfig, *codes: str) -> dict[str, float]:
    with ToolExecutor(lane="pillow") as executor:
        trajectories = [rolled(code, executor) for code in codes]
    group = Group(trajectories[0].sample, trajectories)
    return claim_metrics(Rollouts([group], [score(group, config)]), config)


DOES, FAILS = "result = image.rotate(270, expand=True)", "result = image.rotate(270, expnd=True)"


def test_a_call_that_failed_is_a_claim_that_only_the_published_reading_pays() -> None:
    assert measured(RewardConfig(preset="published"), DOES, FAILS) == {
        "claims/without_effects": 0.5,
        "claims/paid": 0.5,
    }
    assert measured(RewardConfig(), DOES, FAILS) == {"claims/without_effects": 0.5, "claims/paid": 0.0}


def test_effects_that_were_claimed_are_no_difference() -> None:
    for preset in ("published", "effects"):
        assert measured(RewardConfig(preset=preset), DOES, DOES) == {"claims/without_effects": 0.0, "claims/paid": 0.0}


def test_no_rollouts_give_no_numbers() -> None:
    assert claim_metrics(Rollouts([], []), RewardConfig()) == {}
