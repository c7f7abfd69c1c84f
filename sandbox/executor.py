"""The only door: requests in, observations out, in order. Picks the lane and verifies the effect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal

from PIL import Image

from sandbox.lift import Fault, Unliftable, lift
from sandbox.pillow_lane import run_program
from sandbox.program import ToolProgram
from sandbox.texts import NO_RESULT, clean, describe_error, not_lifted
from sandbox.types import Limits, Observation, ToolRequest

Lane = Literal["auto", "pillow"]


class ToolExecutor:
    """Executes tool calls; what the code does, however wrong, comes back as an `Observation`.

    Args:
        lane: "auto" or "pillow": snippets that lift run in process by our own calls, others are rejected.
        limits: What one call may use.
    """

    def __init__(self, lane: Lane = "auto", limits: Limits | None = None) -> None:
        if lane not in ("auto", "pillow"):
            raise ValueError(f"Expected lane 'auto' or 'pillow' but got lane={lane!r}")
        self._limits = limits or Limits()

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the executor holds; it may be called twice."""

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run every request; one observation for each, in order.

        Args:
            requests: Code and images; a request that cannot be served gets an observation that says why.

        Returns:
            Observations with RGB images. Never raises for what a request holds.
        """
        return [self._serve(request) for request in requests]

    def _serve(self, request: ToolRequest) -> Observation:
        start = time.perf_counter()
        try:
            observation = _refuse(request, self._limits) or self._run(request)
        except Exception as error:  # noqa: BLE001 - a bad request is data: nothing that it holds may end a training step
            observation = Observation("error", text=f"The request could not be served: {type(error).__name__}: {error}")
        text = clean(observation.text, self._limits.text_chars)
        return replace(observation, text=text, wall_s=time.perf_counter() - start)

    def _run(self, request: ToolRequest) -> Observation:
        lifted = lift(request.code, tuple(image.size for image in request.images), request.image_index)
        if isinstance(lifted, Unliftable):
            return Observation("rejected", text=not_lifted(lifted.reason, lifted.line))
        if isinstance(lifted, Fault):
            text = describe_error(lifted.kind, lifted.message, lifted.line, request.code)
            return Observation("error", text=lifted.text + text, lane="pillow", level="lifted")
        return run_lifted(lifted, request, self._limits)


def run_lifted(program: ToolProgram, request: ToolRequest, limits: Limits) -> Observation:
    """Run a program in the Pillow lane and say what came of it."""
    if not program.has_result:
        return Observation(
            "ok" if program.text else "error", text=program.text or NO_RESULT, lane="pillow", level="lifted"
        )
    final = program.sizes[-1]
    fault = check_size(final, limits) if final is not None else None
    if fault is not None:
        return Observation("error", text=program.text + fault, lane="pillow", level="lifted")
    source = request.image_index if program.source is None else program.source
    outcome = run_program(program, as_rgb(request.images[source]))
    if outcome.failure is not None:
        text = describe_error(type(outcome.failure).__name__, str(outcome.failure), outcome.line, request.code)
        return Observation("error", text=program.text + text, lane="pillow", level="lifted")
    if outcome.image is None or final is None:
        return Observation("rejected", text=not_lifted("an argument of a call", program.operations[-1].line))
    is_chosen = program.source is None
    return Observation(
        "ok",
        image=outcome.image if outcome.image.mode == "RGB" else outcome.image.convert("RGB"),
        text=program.text,
        lane="pillow",
        level="lifted",
        tools=outcome.tools,
        orientation=outcome.orientation if is_chosen else None,
        frame=outcome.frame if is_chosen else None,
    )


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as plain RGB pixels: 16-bit values scaled, transparency dropped, metadata (EXIF too) left behind."""
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    plain = image.convert("RGB")
    plain.info = {}
    return plain


def check_size(size: tuple[int, int], limits: Limits) -> str | None:
    """What is wrong with the size of a result (width, height), None where nothing is."""
    width, height = size
    if width < 1 or height < 1:
        return f"The result has no pixels: its size is {width}x{height}."
    if width * height > limits.result_megapixels * 1e6:
        most = f"at most {limits.result_megapixels:g} megapixels are allowed"
        return f"The result is too large: {width}x{height} pixels; {most}."
    if max(size) >= limits.aspect * min(size):
        most = f"the longer side must be less than {limits.aspect:g} times the shorter"
        return f"The result is too thin: {width}x{height} pixels; {most}."
    return None


def _refuse(request: ToolRequest, limits: Limits) -> Observation | None:
    """An observation for a request that cannot be run at all."""
    code, index, n_images = request.code, request.image_index, len(request.images)
    text = None
    if not isinstance(code, str):
        text = f"The code must be text, not {type(code).__name__}."
    elif not code.strip():
        text = "The code is empty: assign the new image to `result`, e.g. `result = image.rotate(90, expand=True)`."
    elif len(code) > limits.code_chars:
        text = f"The code is too long: {len(code)} characters; at most {limits.code_chars} are allowed."
    elif "\x00" in code:
        text = "The code holds a null byte, which Python does not read."
    elif not code.isascii() and any("\ud800" <= character <= "\udfff" for character in code):
        text = "The code is not valid Unicode text."
    elif n_images == 0:
        text = "There is no image to work on."
    elif isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_images:
        text = f"image_index is {index!r}; valid are 0 to {n_images - 1}."
    elif not all(isinstance(image, Image.Image) for image in request.images):
        text = "The images must be Pillow images."
    elif min(request.images[index].size) < 1:
        text = f"Image {index} has no pixels."
    return Observation("rejected", text=text) if text is not None else None
