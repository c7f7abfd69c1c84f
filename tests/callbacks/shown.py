"""A group of trajectories to pick from and to write."""

from __future__ import annotations

from PIL import Image

from cv_lightning.types import (
    Group,
    Reply,
    RewardBreakdown,
    Sample,
    StopReason,
    ToolCall,
    Trajectory,
    Turn,
    ViewedImage,
)
from sandbox import Observation


def group_of(text: str, totals: list[float | None]) -> tuple[Group, list[RewardBreakdown]]:
    image = Image.new("RGB", (6, 4), "red")
    sample = Sample(f"../{text}", text, (image,), text, ("rotate_90",), family=text)
    trajectories = [
        Trajectory(
            sample,
            [
                Turn(
                    text, Reply(call=ToolCall(text, text)), Observation("ok", image, text=text, tools=("rotate_270",))
                ),
                Turn(text, Reply(answer=text)),
            ],
            [ViewedImage(image, 0, None, None), ViewedImage(image.rotate(90, expand=True), 0, None, None, 0)],
            stop_reason=StopReason.ANSWERED,
        )
        for _ in totals
    ]
    return Group(sample, trajectories), [
        RewardBreakdown({"accuracy": 0.0 if total is None else total}, None if total is None else total > 0)
        for total in totals
    ]
