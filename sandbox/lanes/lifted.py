"""What a policy sees of a snippet that was read: of a program that ran in process, and of one that must fail."""

from __future__ import annotations

from sandbox.images import as_rgb, check_size
from sandbox.lanes.pillow import Outcome, run_program
from sandbox.lift.reader import Fault
from sandbox.messages import NO_RESULT, describe_error, kind_of
from sandbox.operations.program import ToolProgram
from sandbox.types import Limits, Observation, ToolRequest


def faulty(fault: Fault, request: ToolRequest) -> Observation:
    """The observation of code that raises for certain."""
    text = describe_error(fault.kind, fault.message, fault.line, request.code)
    return Observation("error", text=fault.text + text, lane="pillow", level="lifted")


def run_lifted(program: ToolProgram, request: ToolRequest, limits: Limits) -> Observation | None:
    """Run a program in the Pillow lane and say what came of it; None where it did not fail as it was read to."""
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
        text = describe_error(kind_of(outcome.failure), str(outcome.failure), outcome.line, request.code)
        return Observation("error", text=program.text + text, lane="pillow", level="lifted")
    if outcome.image is None or final is None:
        return None
    return observed(program, outcome, "pillow")


def observed(program: ToolProgram, outcome: Outcome, lane: str) -> Observation:
    """What a policy sees of a program that made an image."""
    is_chosen, image = program.source is None, outcome.image
    return Observation(
        "ok",
        image=image if image is None or image.mode == "RGB" else image.convert("RGB"),
        text=program.text,
        lane=lane,
        level="lifted",
        tools=outcome.tools,
        orientation=outcome.orientation if is_chosen else None,
        frame=outcome.frame if is_chosen else None,
    )
