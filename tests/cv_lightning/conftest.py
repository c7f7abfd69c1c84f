"""A policy whose turns a test writes, played through the real parser, executor and frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from cv_lightning.conversation import format_answer, format_call, parse_reply
from cv_lightning.frames import view_question, view_result
from cv_lightning.types import Sample, StopReason, ToolCall, Trajectory, Turn
from sandbox import Observation, ToolExecutor, ToolRequest

Play = Callable[..., Trajectory]


def _play(sample: Sample, *texts: str, executor: ToolExecutor | None = None) -> Trajectory:
    trajectory = Trajectory(sample, images=view_question(sample), stop_reason=StopReason.ANSWERED)
    with nullcontext(executor) if executor is not None else ToolExecutor(lane="pillow") as executor:
        for index, text in enumerate(texts):
            turn = Turn(text, parse_reply(text))
            trajectory.turns.append(turn)
            call = turn.reply.call
            if call is None:
                if turn.reply.fault is not None:
                    turn.observation = Observation("rejected", text=turn.reply.fault)
                continue
            images = [viewed.image for viewed in trajectory.images]
            turn.observation = executor.execute([ToolRequest(call.code, images, call.image_index)])[0]
            if turn.observation.image is not None:
                trajectory.images.append(view_result(trajectory, call, turn.observation, index))
    return trajectory


@pytest.fixture(scope="session")
def play() -> Play:
    """(sample, *texts of turns, executor=None for the Pillow lane) -> trajectory."""
    return _play


@pytest.fixture(scope="session")
def say() -> Callable[[str], str]:
    """An answer -> the text of a turn that gives it."""
    return lambda answer: format_answer("I can read it.", answer)


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """(code, image_index=0, description="") -> the text of a turn that calls the tool."""

    def text(code: str, image_index: int = 0, description: str = "") -> str:
        return format_call("I look closer.", ToolCall(code, description, image_index))

    return text
