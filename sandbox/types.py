"""Requests, observations and limits: the types of `ToolExecutor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from sandbox.geometry import Affine

Status = Literal["ok", "error", "timeout", "crash", "rejected"]
#: What shares a confined process, and its variables: one call, or the calls of an episode.
Fresh = Literal["call", "episode"]

#: How near the Pillow lane's pixels the tensor lane's are: bit for bit, or within what docs/kornia_lane.md states.
Exactness = Literal["exact", "close"]


class ConfinementError(RuntimeError):
    """The machine cannot confine code as asked; the message says what is missing."""


@dataclass(frozen=True)
class Limits:
    """What one call may use.

    Attributes:
        wall_s: Seconds of wall time.
        memory_mb: Mebibytes that the code may allocate.
        text_chars: Characters of text that an observation may hold.
        result_megapixels: Megapixels of a result image.
        batch_mb: Mebibytes of all results of one `execute`, at 4 bytes a pixel; those beyond are refused.
        code_chars: Characters of code.
        aspect: Largest ratio of a result's longer to its shorter side, exclusive.
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
        text: Its findings; "" if there are none.
        image: An image that it made, or None.
    """

    text: str = ""
    image: Image.Image | None = None


class Model(Protocol):
    """A tool that is a model. It can be pickled: it runs in a process of its own."""

    def load(self) -> None:
        """Load what calls need, in that process, once."""

    def __call__(self, image: Image.Image, **arguments: Any) -> ModelResult:
        """Look at an RGB image."""


@dataclass(frozen=True)
class ModelCall:
    """A tool that is a model, to be called on the image that the code or the program gives.

    Attributes:
        name: Its name for the policy, and in `Observation.tools` if it found something.
        tool: The model.
        arguments: Checked literal values.
        wall_s: Seconds that the call may take.
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
        image_index: Which of them `image` and `img` name, 0-based.
        episode: Requests of one trajectory share this name; one without a name shares nothing.
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
        operation: It, as the table has it.
        before: The image that the worker handed over, or was shown.
    """

    operation: Any
    before: Image.Image


@dataclass(frozen=True)
class Observation:
    """The outcome of a request. Never an exception: a bad call is data.

    Attributes:
        status: "ok", or how it failed.
        image: The result, RGB; None if there is none.
        text: Text for the policy: output, or the error with its line.
        lane: The lane that ran it ("pillow", "kornia", "confined"; "none" if nothing ran).
        exactness: The contract of the tensor lane that ran it ("exact", "close"); "" if another lane did.
        library: Name and version of what the tensor lane ran on; "" if another lane did.
        level: Confinement level ("lifted" if no untrusted code ran).
        wall_s: Seconds from request to result.
        tools: Canonical names of the operations whose effect is in the pixels, in order.
        orientation: Net element of the eight from the chosen image to the result; None if unknown.
        frame: Result pixels to pixels of the chosen image; None if unknown.
        claim: What a worker says of how it made the image, on its way to `sandbox.effects.proof`; "" beyond that.
        last: The call of it that the trainer ran, on the same way.
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


#: Gets the index of a request and its observation while others still run.
Tell = Callable[[int, Observation], None]
