"""`--quiet` on any command line: no progress, only results, warnings and errors.

The flag is stored in the environment, so that the processes that a command starts are quiet too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

FLAG = "--quiet"
VARIABLE = "CV_LIGHTNING_QUIET"


def take_flag(arguments: Sequence[str]) -> list[str]:
    """Remove the flag from the arguments; if it was there, store it in the environment."""
    if FLAG in arguments:
        os.environ[VARIABLE] = "1"
    return [argument for argument in arguments if argument != FLAG]


def is_quiet() -> bool:
    """Whether commands show no progress."""
    return os.environ.get(VARIABLE, "") not in ("", "0")
