"""Tools that are models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from cv_lightning.tools.parameters import ToolParameter
from sandbox import ModelResult


class ModelTool(ABC):
    """A tool that is a model: an OCR, a detector, a segmenter. It runs in a process of its own, never in the trainer.

    A subclass can be imported by that process and holds nothing that cannot be pickled: weights are loaded by `load`.
    """

    #: What the policy calls it.
    name: ClassVar[str]
    #: What it does, for the policy.
    description: ClassVar[str]
    #: What it takes beside an image, by name.
    parameters: ClassVar[Mapping[str, ToolParameter]] = {}
    #: Seconds that a call may take.
    wall_s: ClassVar[float] = 10.0
    #: Seconds that its process may take to start and to load.
    start_s: ClassVar[float] = 120.0

    def load(self) -> None:  # noqa: B027 - a tool without weights has nothing to load
        """Load what calls need, in the tool's own process, once."""

    @abstractmethod
    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """Look at an RGB image; whatever it raises becomes an error that the policy reads."""
