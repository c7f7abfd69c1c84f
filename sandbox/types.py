"""Requests, observations and limits: the types of `ToolExecutor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from sandbox.geometry import Affine

Status = Literal["ok", "error", "timeout", "crash", "rejected"]
#: Whether a confined process and its variables serve only one call, or the calls of an episode.
Fresh = Literal["call", "episode"]

#: How close the tensor lane's pixels are to the Pillow lane's: bit for bit, or within the limits in
#: docs/kornia_lane.md.
Exactness = Literal["exact", "close"]


class ConfinementError(RuntimeError):
    """The machine cannot confine code as requested; the message says what is missing."""


@dataclass(frozen=True)
class Limits:
    """Limits of one call.

    Attributes:
        wall_s: Seconds of wall time.
        memory_mb: Mebibytes that the code may allocate.
        text_chars: Characters of text that an observation may contain.
        result_megapixels: Megapixels of a result image.
        batch_mb: Mebibytes of all results of one `execute`, at 4 bytes per pixel; results beyond that are refused.
        code_chars: Characters of code.
        aspect: Largest ratio of a result's longer side to its shorter side, exclusive.
    """

    wall_s: float = 1.5
    memory_mb: int = 768
    text_chars: int = 8000
    result_megapixels: float = 32
    batch_mb: int = 1024
    code_chars: int = 2048
    aspect: float = 200


@dataclass(frozen=True)
class ModelResult:
    """The answer of a tool that is a model.

    Attributes:
        text: The model's findings; "" if there are none.
        image: An image that it made, or None.
    """

    text: str = ""
    image: Image.Image | None = None


class Model(Protocol):
    """A tool that is a model. It must support pickling, because it runs in a process of its own."""

    def load(self) -> None:
        """Load what calls need, once, in the model's process."""

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """Run the model on an RGB image."""


@dataclass(frozen=True)
class ModelCall:
    """A tool that is a model, to be called on the resulting image of the code or the program.

    Attributes:
        name: Its name for the policy, and in `Observation.tools` if the model found something.
        tool: The model.
        arguments: Checked literal values.
        wall_s: Time limit of the call in seconds.
        start_s: Seconds that its process may take to start and to load.
    """

    name: str
    tool: Model
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 10.0
    start_s: float = 120.0


@dataclass(frozen=True)
class ToolRequest:
    """Code to run on one of a trajectory's images.

    Attributes:
        code: Python source as the policy wrote it.
        images: All images of the trajectory so far, RGB.
        image_index: Index of the image that `image` and `img` name, 0-based.
        episode: Name that requests of one trajectory share; a request without a name shares nothing.
        model: A model to call on the result.
    """

    code: str
    images: Sequence[Image.Image]
    image_index: int = 0
    episode: str = ""
    model: ModelCall | None = None


@dataclass(frozen=True)
class LastCall:
    """The last call of code, which the trainer ran for the worker.

    Attributes:
        operation: The call, as an operation of the table.
        before: The image before the call, which the worker handed over or was shown.
    """

    operation: Any
    before: Image.Image


@dataclass(frozen=True)
class Observation:
    """The outcome of a request. Never an exception: a bad call is data.

    Attributes:
        status: "ok", or the kind of failure.
        image: The result, RGB; None if there is none.
        text: Text for the policy: output, or the error with its line.
        lane: The lane that ran it ("pillow", "kornia", "confined"; "none" if nothing ran).
        exactness: The contract of the tensor lane that ran it ("exact", "close"); "" for other lanes.
        library: Name and version of the tensor lane's library; "" for other lanes.
        level: Confinement level ("lifted" if no untrusted code ran).
        wall_s: Seconds from request to result.
        tools: Canonical names of the operations whose effects are visible in the pixels, in order.
        orientation: Net orientation (one of eight) from the chosen image to the result; None if unknown.
        frame: Map from result pixels to pixels of the chosen image; None if unknown.
        claim: A worker's statement of how it made the image, for `sandbox.effects.proof`; "" after that.
        last: The last call, which the trainer ran; also only for `sandbox.effects.proof`.
    """

    status: Status
    image: Image.Image | None = None
    text: str = ""
    lane: str = "none"
    level: str = "none"
    wall_s: float = 0.0
    exactness: str = ""
    library: str = ""
    tools: tuple[str, ...] = ()
    orientation: str | None = None
    frame: Affine | None = None
    claim: str = field(default="", repr=False)
    last: LastCall | None = field(default=None, repr=False)


#: Called with the index of a request and its observation while other requests still run.
Tell = Callable[[int, Observation], None]
