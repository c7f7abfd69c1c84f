"""A row to check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[..., tuple[int, str]]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"What {number}?", "images": ["a.png"], "answer": "x"} | changes
