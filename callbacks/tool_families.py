"""Families of tools, as in PyVision (arXiv 2507.07998), and reasons why a call failed."""

from __future__ import annotations

import builtins
import re

from cv_lightning.evidence import CORE_TOOLS
from cv_lightning.types import Trajectory, Turn

#: PyVision's families that concern images and numbers.
FAMILIES = ("geometry", "enhancement", "sketching", "numeric", "other")

#: Name of a call that ran and gave text but no image: it measured or computed something.
NUMERIC_TOOL = "compute"

_GEOMETRY = CORE_TOOLS | {"rotate", "resize", "pad", "affine", "perspective", "flip", "tile", "concatenate"}
_ENHANCEMENT = {
    *("brightness", "contrast", "sharpness", "color", "grayscale", "gamma", "invert", "solarize", "posterize"),
    *("autocontrast", "equalize", "clahe", "blur", "median", "denoise", "unsharp", "sharpen", "emboss", "channel_swap"),
    *("threshold", "edges", "dilate", "erode", "morphology", "convolve", "levels", "channel", "blend", "arithmetic"),
}
_SKETCHING = {"draw", "sketch", "annotate", "line", "rectangle", "ellipse", "polygon", "text", "grid"}

#: Names of errors that may become names of metrics; all others count as "other".
_ERRORS = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?=:|$)", re.MULTILINE)


def family_of(tool: str) -> str:
    """The family of a canonical tool name; "other" for an unknown tool."""
    if tool in _GEOMETRY:
        return "geometry"
    if tool in _ENHANCEMENT:
        return "enhancement"
    if tool in _SKETCHING:
        return "sketching"
    return "numeric" if tool == NUMERIC_TOOL else "other"


def tools_of(turn: Turn) -> tuple[str, ...]:
    """Canonical tools of a call that ran, by their effect; `NUMERIC_TOOL` if it gave text and no image."""
    seen = turn.observation
    if seen is None or turn.reply.call is None or seen.status != "ok":
        return ()
    return (NUMERIC_TOOL,) if seen.image is None and seen.text and not seen.tools else seen.tools


def verified_tools(trajectory: Trajectory) -> frozenset[str]:
    """Canonical names of the tools whose effect is in the pixels of a result."""
    return frozenset(tool for turn in trajectory.turns for tool in tools_of(turn)) - {NUMERIC_TOOL}


def failure_of(turn: Turn) -> str | None:
    """Why a turn's call failed: "malformed", "timeout", "crash", "rejected", "no_result", an error's name, "other".

    None if the call ran or the turn tried no call. The set of names is fixed, so a policy cannot add one.
    """
    seen = turn.observation
    if turn.reply.call is None:
        return "malformed" if turn.reply.fault is not None and not turn.reply.is_silent else None
    if seen is None or seen.status == "ok":
        return None
    if seen.status != "error":
        return seen.status
    names = [name for name in _ERROR.findall(seen.text) if name in _ERRORS]
    if names:
        return str(names[-1])  # the last one is the error itself; the code's own output precedes it
    return "no_result" if "gave no result" in seen.text else "other"
