"""The closest valid names to an invalid name, as text for an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` names similar to `name`, best first; case is ignored."""
    by_lower: dict[str, str] = {}
    for candidate in valid:
        by_lower.setdefault(candidate.lower(), candidate)
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.6)]


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`Did you mean 'a' or 'b'?`; all valid names if none is close; empty if there are no valid names."""
    names = sorted(valid)
    close = closest(name, names)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Valid: {', '.join(names)}." if names else ""
