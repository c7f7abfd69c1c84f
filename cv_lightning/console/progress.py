"""Progress of a command: a bar in a terminal, a line every few seconds elsewhere, nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from cv_lightning.console.quiet import is_quiet

Item = TypeVar("Item")


def tracked(items: Sequence[Item], title: str, every_s: float = 10.0) -> Iterator[Item]:
    """Yield the items one after the other and show the progress on standard error.

    Args:
        items: The items to process.
        title: Title of the progress display.
        every_s: Seconds between two lines if standard error is not a terminal.
    """
    console = Console(stderr=True)
    if is_quiet():
        yield from items
    elif console.is_terminal:
        yield from track(items, title, console=console, transient=True)
    else:
        yield from _lines(items, title, every_s, console)


def _lines(items: Sequence[Item], title: str, every_s: float, console: Console) -> Iterator[Item]:
    started = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= every_s:
            said = now
            left_s = (now - started) / done * (len(items) - done)
            line = f"{title}: {done}/{len(items)}, {now - started:.0f} s, {left_s:.0f} s left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        yield item
