"""Tools that are models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from cv_lightning.tools.parameters import ToolParameter
from sandbox import ModelResult


class ModelTool(ABC):
    """A tool that is a model: OCR, a detector, a segmenter. It runs in its own process, never in the trainer.

    That process must be able to import the subclass, and its instances must be picklable: `load` loads the weights.
    """

    #: Name of the tool in the policy's calls.
    name: ClassVar[str]
    #: Description of the tool for the policy.
    description: ClassVar[str]
    #: Parameters of a call besides the image, by name.
    parameters: ClassVar[Mapping[str, ToolParameter]] = {}
    #: Seconds that a call may take.
    wall_s: ClassVar[float] = 10.0
    #: Seconds that the process may take to start and to load the model.
    start_s: ClassVar[float] = 120.0

    def load(self) -> None:  # noqa: B027 - a tool without weights has nothing to load
        """Load the model once, in the tool's own process."""

    @abstractmethod
    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """Process an RGB image; any exception becomes an error that the policy reads."""
