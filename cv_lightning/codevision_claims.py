"""Tools and boxes as CodeVision's release guesses them: by regular expressions over code and description.

This is the reward's preset "published", kept for comparison with the paper. It reads claims, not effects: a comment or
a description earns what the code does not do, and no box knows which image it was drawn on. arXiv 2512.03746 does not
print the expressions; these cover the ways of writing that its examples use.
"""

from __future__ import annotations

import re

from cv_lightning.types import Box

_TOOLS = {
    "rotate_90": r"rotate\(\s*(?:90|-270)\b|ROTATE_90(?:_COUNTERCLOCKWISE)?\b|rotate_90\b"
    r"|rot90\(\s*\w+\s*(?:,\s*(?:k\s*=\s*)?1\s*)?\)",
    "rotate_180": r"rotate\(\s*-?180\b|ROTATE_180\b|rot90\(\s*\w+\s*,\s*(?:k\s*=\s*)?-?2\b|rotate_180\b",
    "rotate_270": r"rotate\(\s*(?:270|-90)\b|ROTATE_270\b|ROTATE_90_CLOCKWISE\b"
    r"|rot90\(\s*\w+\s*,\s*(?:k\s*=\s*)?(?:3|-1)\b|rotate_270\b",
    "flip_horizontal": r"FLIP_LEFT_RIGHT|\bmirror\(|fliplr\(|cv2\.flip\(\s*\w+\s*,\s*1\b|flip[_ ]horizontal",
    "flip_vertical": r"FLIP_TOP_BOTTOM|ImageOps\.flip\(|flipud\(|cv2\.flip\(\s*\w+\s*,\s*0\b|flip[_ ]vertical",
    "crop": r"\bcrop\b|\w\[\s*\d+\s*:\s*\d+\s*,\s*\d+\s*:\s*\d+",
    "contrast": r"contrast",
    "brightness": r"brightness",
    "sharpness": r"sharp(?:ness|en)|unsharp",
    "color": r"Enhance\.Color|ImageEnhance\.Color|saturation",
    "grayscale": r"gr[ae]y_?scale|convert\(\s*[\"']L[\"']|COLOR_(?:RGB|BGR)2GRAY",
    "resize": r"\bresize\b|thumbnail\(",
    "blur": r"blur",
    "threshold": r"threshold",
    "edges": r"Canny|FIND_EDGES|edge detection",
    "invert": r"\binvert\b",
    "equalize": r"equali[sz]e|CLAHE",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _TOOLS.items()}

_INTEGER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"crop\D{{0,12}}[(\[]{_INTEGER},{_INTEGER},{_INTEGER},{_INTEGER}[)\]]", re.IGNORECASE)
_SLICE = re.compile(rf"\w\[{_INTEGER}:{_INTEGER},{_INTEGER}:{_INTEGER}")


def claimed_tools(text: str) -> frozenset[str]:
    """The tools that a text of code and description mentions."""
    return frozenset(name for name, pattern in _PATTERNS.items() if pattern.search(text))


def claimed_boxes(text: str) -> list[Box]:
    """The boxes (x1, y1, x2, y2) that a text mentions: `crop((x1, y1, x2, y2))`, `crop [..]`, `a[y1:y2, x1:x2]`."""
    boxes: list[Box] = []
    for match in _BOX.finditer(text):
        x1, y1, x2, y2 = (float(value) for value in match.groups())
        boxes.append((x1, y1, x2, y2))
    for match in _SLICE.finditer(text):
        y1, y2, x1, x2 = (float(value) for value in match.groups())
        boxes.append((x1, y1, x2, y2))
    return boxes
