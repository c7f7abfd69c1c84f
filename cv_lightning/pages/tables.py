"""Tables of texts, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

#: Number of columns if the output is no terminal.
_FILE_WIDTH = 160


@dataclass(frozen=True)
class TextTable:
    """A table whose cells may contain line breaks.

    Attributes:
        title: Shown above the table.
        head: Headings; the first one is for the names of the rows.
        rows: For each row, its name and then its cells.
        note: Shown below the table.
        is_prose: Whether cells are text, which is aligned to the left.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_prose: bool = False


def wide_console() -> Console:
    """The console of standard output; if that is no terminal, wide enough for tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _FILE_WIDTH))


def show_table(table: TextTable, console: Console) -> None:
    """Print a table with its title above and its note below; inside, they would be wrapped at the table's width."""
    console.print(Text(table.title, style="bold"))
    console.print(for_terminal(table))
    if table.note:
        console.print(Text(table.note, style="dim"))


def for_terminal(table: TextTable) -> TerminalTable:
    """Convert a table for rich; markup in its texts stays plain text."""
    shown = TerminalTable()
    for place, heading in enumerate(table.head):
        shown.add_column(Text(heading), justify="right" if place and not table.is_prose else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
