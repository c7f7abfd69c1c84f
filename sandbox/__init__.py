"""Executes the code that a policy writes about images. The only entry point is `ToolExecutor`."""

from sandbox.executor import ToolExecutor
from sandbox.geometry import ORIENTATIONS, Affine, compose, inverse, inverse_transform, orient, orientation_frame
from sandbox.operations.program import ToolProgram, print_program
from sandbox.types import ConfinementError, Limits, ModelCall, ModelResult, Observation, ToolRequest

__all__ = [
    "ORIENTATIONS",
    "Affine",
    "ConfinementError",
    "Limits",
    "ModelCall",
    "ModelResult",
    "Observation",
    "ToolExecutor",
    "ToolProgram",
    "ToolRequest",
    "compose",
    "inverse",
    "inverse_transform",
    "orient",
    "orientation_frame",
    "print_program",
]
