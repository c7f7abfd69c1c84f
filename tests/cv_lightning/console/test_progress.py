"""The progress of a command, in a terminal, in a log file and in quiet mode."""

from __future__ import annotations

import pytest

from cv_lightning.console.progress import tracked
from cv_lightning.console.quiet import VARIABLE


def test_lines_say_how_far_it_is_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert list(tracked("abc", "reading", every_s=0.0)) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["reading: 1/3, 0 s, 0 s left", "reading: 2/3, 0 s, 0 s left"]
    assert list(tracked("abc", "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "", "what is soon done says nothing"


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(tracked("abc", "reading")) == ["a", "b", "c"]
    shown = capsys.readouterr()
    assert "reading" in shown.err
    assert "━" in shown.err
    assert shown.out == ""


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv(VARIABLE, "1")
    assert list(tracked("abc", "reading", every_s=0.0)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
