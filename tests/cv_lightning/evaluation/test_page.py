"""The page and the printed table."""

from __future__ import annotations

from pathlib import Path

import pytest

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.evaluation.page import print_table, write_page
from cv_lightning.evaluation.table import make_table
from tests.cv_lightning.evaluation.answered import FACTS, record


def test_gain_and_harm_are_on_the_page_only_if_they_were_measured(
    records: list[AnswerRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for without_tools, is_shown in ((), False), ([record("a", "upright", 0.0)], True):
        table = make_table(records, ["upright", "rot90"], without_tools=without_tools)
        page = write_page(table, FACTS, tmp_path).read_text(encoding="utf-8")
        print_table(table, FACTS, tmp_path)
        assert ("<h2>With and without tools</h2>" in page) is is_shown
        assert ("same questions with and without tools" in capsys.readouterr().out) is is_shown
        assert "<h2>Robustness</h2>" in page


def test_nothing_answered_is_an_empty_table(tmp_path: Path) -> None:
    table = make_table([], ["upright"])
    assert (table.rows, table.metrics()) == ({}, {})
    assert "No answer was judged" in write_page(table, FACTS, tmp_path).read_text(encoding="utf-8")


def test_page_and_table_show_it(
    records: list[AnswerRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [record(item, f"jpeg_{level}", 0.5) for item in "abc" for level in (1, 3, 5)]
    table = make_table([*records, *more], ["upright", "rot90", "jpeg_1", "jpeg_3", "jpeg_5"])
    path = write_page(table, FACTS, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "&lt;tiny&gt;" in text
    assert "<tiny>" not in text
    assert text.count("<svg") == 3, "accuracy, tools, and jpeg by severity"
    assert "contrast 1, resize 1" in text
    assert "66.7\n(0.0 to 100.0)" in text
    print_table(table, FACTS, path)
    printed = capsys.readouterr().out
    assert "rot90" in printed
    assert "1 not answered" in printed
    assert "crop" not in printed, "a column without a value is left out"
