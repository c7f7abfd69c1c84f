"""Tables of texts, for the terminal as for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

#: Columns of output that is no terminal.
_FILE_WIDTH = 160


@dataclass(frozen=True)
class TextTable:
    """A table; cells may hold line breaks.

    Attributes:
        title: Shown above it.
        head: Headings, that of the names of the rows first.
        rows: Name of the row, then its cells.
        note: Shown below it.
        is_prose: Cells are words, aligned to the left.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_prose: bool = False


def wide_console() -> Console:
    """The console of standard output, wide enough for tables if it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _FILE_WIDTH))


def show_table(table: TextTable, console: Console) -> None:
    """Print a table. Its title and note are above and below it, since inside they would be broken at its width."""
    console.print(Text(table.title, style="bold"))
    console.print(for_terminal(table))
    if table.note:
        console.print(Text(table.note, style="dim"))


def for_terminal(table: TextTable) -> TerminalTable:
    """The table as rich draws it; markup in its texts is text."""
    shown = TerminalTable()
    for place, heading in enumerate(table.head):
        shown.add_column(Text(heading), justify="right" if place and not table.is_prose else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
