"""Executes the code that a policy writes about images. The only door is `ToolExecutor`."""

from sandbox.executor import ToolExecutor
from sandbox.geometry import ORIENTATIONS, Affine, compose, inverse, inverse_transform, orient, orientation_frame
from sandbox.types import Limits, Observation, ToolRequest

__all__ = [
    "ORIENTATIONS",
    "Affine",
    "Limits",
    "Observation",
    "ToolExecutor",
    "ToolRequest",
    "compose",
    "inverse",
    "inverse_transform",
    "orient",
    "orientation_frame",
]
