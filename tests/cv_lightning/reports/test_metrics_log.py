"""The metrics of several attempts of a stage become one metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from cv_lightning.reports.metrics_log import join, merge, set_aside


def write(folder: Path, text: str) -> None:
    (folder / "metrics.csv").write_text(text, encoding="utf-8")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_attempts_with_other_columns_are_joined_and_repeated_steps_count_once(tmp_path: Path) -> None:
    write(tmp_path, "a,step\n1,0\n2,10\n3,20\n")
    set_aside(tmp_path)
    write(tmp_path, "b,step\n7,20\n8,30\n")
    set_aside(tmp_path)
    write(tmp_path, "step,test\n40,0.5\n")
    join(tmp_path)
    assert rows(tmp_path) == [
        {"a": "1", "b": "", "step": "0", "test": ""},
        {"a": "2", "b": "", "step": "10", "test": ""},
        {"a": "", "b": "7", "step": "20", "test": ""},
        {"a": "", "b": "8", "step": "30", "test": ""},
        {"a": "", "b": "", "step": "40", "test": "0.5"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_attempt_that_only_tests_keeps_the_curves(tmp_path: Path) -> None:
    write(tmp_path, "a,step\n1,0\n2,10\n")
    set_aside(tmp_path)
    write(tmp_path, "step,test/accuracy/mean\n0,0.5\n")
    join(tmp_path)
    assert [(row["step"], row["a"], row["test/accuracy/mean"]) for row in rows(tmp_path)] == [
        ("0", "1", ""),
        ("10", "2", ""),
        ("0", "", "0.5"),
    ]


def test_single_attempt_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "a,step\n1,0\n")
    before = (tmp_path / "metrics.csv").read_bytes()
    join(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_attempt_that_wrote_nothing_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a,step\n1,0\n")
    set_aside(tmp_path)
    join(tmp_path)
    assert rows(tmp_path) == [{"a": "1", "step": "0"}]


def test_of_a_step_in_several_logs_the_last_counts() -> None:
    logs = [{"a": [(0.0, 1.0), (2.0, 3.0)]}, {"a": [(1.0, 5.0), (2.0, 4.0)], "b": [(0.0, 7.0)]}]
    assert merge(logs) == {"a": [(0.0, 1.0), (1.0, 5.0), (2.0, 4.0)], "b": [(0.0, 7.0)]}
