"""Texts of observations, cleaned of markup that must not appear in a conversation."""

from __future__ import annotations

import re
import site
import sys
from functools import cache
from pathlib import Path

#: Markup of chat templates and of the paper's format, which text from a run must not be able to write.
_MARKUP = re.compile(r"<\|[^<>|]{0,40}\|>|</?(?:tool_response|tool_call|think|answer|image|video)>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
#: Passes over the text, because removing markup may create new markup.
_MAX_NESTED = 16
_CUT = "\n[text was cut here]"


def clean(text: str, limit: int) -> str:
    """The text without control characters and conversation markup, at most `limit` characters."""
    text = _CONTROL.sub("", text[: 4 * limit + 4096])
    for _ in range(_MAX_NESTED):
        if (stripped := _MARKUP.sub("", text)) == text:
            break
        text = stripped
    else:
        text = text.replace("<", "")  # all markup begins with it; deeper nesting would cost the square of its depth
    text = text.strip("\n")
    if len(text) > limit:
        text = (text[: max(0, limit - len(_CUT))] + _CUT)[:limit]
    return text


def describe_error(kind: str, message: str, line: int, code: str) -> str:
    """Error type, message and failing line, so that a policy can fix its code."""
    message = re.sub(r"^OpenCV\([^)]*\) [^ ]*: error: ", "", message).strip()
    lines = code.splitlines()
    place = f"\n  line {line}: {lines[line - 1].strip()}" if 0 < line <= len(lines) else ""
    return f"{kind}: {message}{place}" if message else f"{kind}{place}"


def kind_of(error: BaseException) -> str:
    """The type's name as a traceback prints it."""
    kind = type(error)
    is_plain = kind.__module__ in ("builtins", "__main__")
    return kind.__name__ if is_plain else f"{kind.__module__}.{kind.__name__}"


def not_lifted(reason: str, line: int, remedy: str = "") -> str:
    """The text for code that cannot run here: the line, the reason, and the code to write instead."""
    remedy = remedy or "use plain Pillow, OpenCV or NumPy calls with constant arguments on `image`"
    return (
        f"line {line}: {reason} cannot run here; {remedy}, and assign the new image to `result`, e.g. "
        "`result = image.rotate(90, expand=True)` or `result = image.crop((10, 20, 110, 80))`."
    )


def too_large(size: tuple[int, int], megapixels: float) -> str:
    """The text for a result of `size` (width, height) above the limit."""
    return f"The result is too large: {size[0]}x{size[1]} pixels; at most {megapixels:g} megapixels are allowed."


#: Names that may hold the result, in order of preference; `img` and `image` count only if they were changed.
RESULT_NAMES = ("result", "output", "processed_image", "img", "image")

NO_RESULT = "The code ran but gave no result: assign the new image to `result`."


@cache
def _host_paths() -> list[str]:
    """Called in the trainer only."""
    places = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        str(Path(__file__).resolve().parents[1]),
        *site.getsitepackages(),
    }
    places |= {path for path in sys.path if path.count("/") > 1}
    return sorted((place for place in places if len(place) > 1), key=len, reverse=True)


def hide_paths(text: str) -> str:
    """The text without paths of this installation."""
    for path in _host_paths():
        text = text.replace(path, "...")
    return text
