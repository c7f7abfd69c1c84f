"""The tables of a comparison, cell by cell."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.compare import tables
from cv_lightning.compare.answers import PairedRow, PairedTable
from cv_lightning.compare.comparison import Comparison
from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run
from cv_lightning.compare.summary import Metric, Value


def comparison(**parts: Any) -> Comparison:
    groups = [RunGroup(name, [Run(name, f"runs/{name}")]) for name in ("a", "b")]
    empty: dict[str, Any] = {"differing": {}, "metrics": {}, "shown": [], "conditions": {}, "paired": []}
    return Comparison(groups, **(empty | {"answer_tools": {}, "notes": []} | parts))


def metric(mean: float, *of_runs: float, interval: tuple[float, float] | None = None) -> Metric:
    return Metric(Value(mean, interval, list(of_runs or (mean,))), None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.001, "0.001"),
        (0.000999, "9.99e-04"),
        (-0.5, "-0.500"),
        (9.9994, "9.999"),
        (10.0, "10.0"),
        (-99.94, "-99.9"),
        (100.4, "100"),
        (9999.0, "9,999"),
        (10_000.0, "1.00e+04"),
    ],
)
def test_numbers_of_any_size_take_a_few_digits(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "<0.0001"), (0.0001, "0.0001"), (0.00994, "0.0099"), (0.01, "0.01"), (1.0, "1.00")]
)
def test_small_p_values_keep_their_digits(p: float, text: str) -> None:
    assert tables.p_text(p) == text


def test_keys_that_a_group_lacks_come_last_and_few() -> None:
    differing = {"lr": ["0.1", "0.2"], "x": ["", "1"], "y": ["2", ""], "class": ["modules.grpo.GRPOModule", "a.b"]}
    table = tables.differing(comparison(differing=differing), most_lacked=1)
    assert table.head == ["", "a", "b"]
    assert table.rows == [["lr", "0.1", "0.2"], ["class", "GRPOModule", "a.b"], ["x", "-", "1"]]
    assert table.note == "and 1 more keys that only some groups have: see --html or --json"
    assert tables.differing(comparison(differing=differing), most_lacked=2).note == ""
    assert [row[0] for row in tables.lacking(comparison(differing=differing)).rows] == ["x", "y"]


def test_a_metric_shows_its_end_its_best_and_each_run_if_asked() -> None:
    value = Metric(Value(0.5, (0.25, 0.75), [0.4, 0.6]), Value(0.75, None, [0.75]), 1234.0)
    assert tables.metric_text(None) == "-"
    assert tables.metric_text(value) == "0.500 (0.250 to 0.750)\nbest 0.750 at 1,234"
    assert tables.metric_text(value, with_runs=True).splitlines()[-1] == "0.400, 0.600"
    assert tables.metric_text(metric(0.5), with_runs=True) == "0.500", "the only run is the mean"


def row(condition: str, **changes: Any) -> PairedRow:
    values: dict[str, Any] = {"n": 1200, "first": 0.5, "second": 0.625, "difference": 0.125, "interval": (-0.01, 0.26)}
    values |= {"only_first": 3, "only_second": 1004, "p": 0.02, "p_holm": None, "test": "McNemar"}
    return PairedRow(condition, **(values | {"seeds_ahead": 2, "seeds_behind": 1, "n_seeds": 3} | changes))


def test_paired_answers_in_eleven_columns_and_in_five() -> None:
    rows = [row("rot90", p_holm=0.04, n_seeds=0), row("all", only_first=None, only_second=None, interval=None)]
    table = PairedTable("a", "b", rows, n_shared=2400)
    wide = tables.paired(table)
    assert "b against a" in wide.title
    assert "2,400 pairs" in wide.title
    assert wide.rows[0] == [
        *("rot90", "+12.5\n(-1.0 to +26.0)", "0.02", "0.04", "-", "50.0", "62.5", "3", "1,004", "1,200", "McNemar"),
    ]
    assert wide.rows[1][1:5] == ["+12.5", "0.02", "", "2 of 3"]
    assert wide.rows[1][7:9] == ["-", "-"]
    assert all(len(each) == len(wide.head) for each in wide.rows)
    narrow = tables.paired_narrow(table)
    assert narrow.rows == [
        ["rot90", "+12.5\n(-1.0 to +26.0)", "3 : 1,004", "0.04", "-"],
        ["all", "+12.5", "- : -", "0.02", "2 of 3"],
    ]
    assert "only one is right: a : b. Tests: McNemar;" in narrow.note


def test_shares_are_percent_and_other_cells_are_not() -> None:
    half = Value(0.5, (0.4, 0.6), [0.5])
    conditions: Any = {
        "accuracy": {"upright": [half, None], "mean": [half, half]},
        "turns": {"upright": [None, half], "mean": [half, half]},
        "error_rate": {"upright": [half, half]},
    }
    made = comparison(conditions=conditions)
    assert tables.accuracies(made).rows[0] == ["upright", "50.0 (40.0 to 60.0)", "-"]
    assert tables.means(made).rows == [["turns", *["0.50 (0.400 to 0.600)"] * 2]]
    assert [table.title for table in tables.other_cells(made)] == ["turns", "error_rate, %"]


def test_a_reward_term_has_its_share_if_it_was_measured() -> None:
    metrics: Any = {
        "reward/format": [metric(0.2), None],
        "reward/crop": [metric(0.1), metric(0.4)],
        "reward/never": [metric(0.0), None],
        "components/share/crop": [metric(0.25), None],
    }
    assert tables.reward_terms(comparison(metrics=metrics)).rows == [
        ["format", "0.200", "-"],
        ["crop", "0.100 · 25 %", "0.400"],
    ]


def test_histograms_are_of_what_is_used_most_used_first() -> None:
    metrics: Any = {
        "tools/used/crop": [metric(0.1), metric(0.2)],
        "tools/used/rotate": [metric(0.5), None],
        "tools/family/turns": [metric(1.0), metric(1.0)],
    }
    (made,) = tables.histograms(comparison(metrics=metrics, answer_tools={"crop": [0.0, None]}))
    assert made.title == "Tools at the end of training"
    assert list(made.shares.items()) == [("rotate", [0.5, None]), ("crop", [0.1, 0.2])]
