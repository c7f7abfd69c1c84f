"""Trajectories with given calls."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cv_lightning.types import Reply, ToolCall, Trajectory, Turn
from sandbox import Observation
from tests.callbacks.steps import SAMPLE

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))


def call(
    status: str = "ok", text: str = "", *tools: str, image: Image.Image | None = IMAGE, lane: str = "pillow"
) -> Turn:
    seen = Observation(status, image if status == "ok" else None, text, lane, tools=tools)  # type: ignore[arg-type]
    return Turn("", Reply(call=ToolCall("")), seen)


def using(*tools: str) -> Trajectory:
    return Trajectory(SAMPLE, [call("ok", "", *tools)] if tools else [])
