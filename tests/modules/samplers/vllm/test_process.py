"""A server's process: its output, its ports, its end."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from modules.samplers.vllm.process import ServerProcess, free_port, is_free


def process_of(code: str, folder: Path) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", code], dict(os.environ), folder / "logs" / "server.log")


def wait_for_end(process: ServerProcess) -> None:
    deadline = time.monotonic() + 60
    while process.is_running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process.is_running


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a", "b", "", "c", "d"], "b / c / d"),
        (["ValueError: first", "later", "error: second", "more"], "ValueError: first / error: second"),
        (["x" * 1000], "x" * 300),
        ([], ""),
    ],
)
def test_its_last_words_are_its_errors_or_its_last_lines(lines: list[str], words: str, tmp_path: Path) -> None:
    process = process_of("\n".join(f"print({line!r})" for line in lines), tmp_path)
    assert process.last_words() == "", "it has not begun"
    process.start()
    wait_for_end(process)
    assert process.last_words() == words
    process.end()


def test_words_of_an_earlier_start_are_not_its_last_ones(tmp_path: Path) -> None:
    process = process_of("import os; print('pass', os.getpid())", tmp_path)
    for number in (1, 2):
        process.start()
        wait_for_end(process)
        assert process.n_starts == number
        assert process.last_words().count("pass") == 1
    assert process.log.read_text(encoding="utf-8").count("pass") == 2, "the log keeps all"


@pytest.mark.parametrize("at_once", [True, False])
def test_it_ends_when_it_is_told_and_may_be_told_again(at_once: bool, tmp_path: Path) -> None:
    process = process_of("import time; time.sleep(600)", tmp_path)
    process.end()
    process.start()
    assert process.is_running
    process.end(at_once)
    assert not process.is_running
    process.end(at_once)


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not is_free(port)
    assert is_free(port)
