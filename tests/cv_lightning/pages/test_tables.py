"""Tables in the terminal: markup is text, line breaks are kept."""

from __future__ import annotations

import io

from rich.console import Console

from cv_lightning.pages.tables import TextTable, show_table


def test_markup_is_text_and_cells_have_lines() -> None:
    console = Console(file=io.StringIO(), width=80)
    show_table(TextTable("[red]title", ["", "[b]head"], [["[i]row", "1\n(0 to 2)"]], "[note]"), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[red]title", "[b]head", "[i]row", "(0 to 2)", "[note]"):
        assert text in printed
    assert "1\n" not in printed, "the second line of a cell is in the table"
