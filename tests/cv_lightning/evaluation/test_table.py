"""The table against counts made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.evaluation.robustness import INDICES
from cv_lightning.evaluation.table import CELLS, MEAN, make_table, write_results
from tests.cv_lightning.evaluation.answered import FACTS, record


def test_cells_by_hand(records: list[AnswerRecord]) -> None:
    table = make_table(records, ["rot90", "upright", "vflip"])
    assert list(table.rows) == ["rot90", "upright", MEAN], "in the order asked for; nothing was answered under vflip"
    upright, turned = table.rows["upright"], table.rows["rot90"]
    assert (upright["n"], upright["unjudged"], upright["accuracy"]) == (3, 0, pytest.approx(2 / 3))
    assert (upright["drop"], upright["drop_low"], upright["drop_high"]) == (0, 0, 0)
    assert (upright["tool_rate"], upright["chain_length"], upright["emergent_rate"]) == (1 / 3, 2, 1 / 3)
    assert (upright["required_recall"], upright["crop_iou"], upright["right_after_error"]) == (None, None, None)
    assert upright["exact_tools"] == 1.0
    assert (turned["n"], turned["unjudged"], turned["accuracy"]) == (4, 1, pytest.approx(2 / 3))
    assert turned["drop"] == pytest.approx(0.5), "a: 1 to 1, b: 1 to 0; c was not judged, d has no upright answer"
    assert turned["restored_rate"] == 0.75
    assert (turned["mean_turns"], turned["n_calls"]) == (2, 1)
    assert turned["error_rate"] == pytest.approx(3 / 6)
    assert turned["right_after_error"] == pytest.approx(1 / 3)
    assert turned["chain_length"] == pytest.approx(4 / 3)
    assert turned["emergent_rate"] == 0, "a turn by another angle is a way around the required tools"
    assert turned["required_recall"] == 0.5
    assert turned["exact_tools"] == 0.5
    mean = table.rows[MEAN]
    assert mean["accuracy"] == pytest.approx(2 / 3)
    assert mean["n"] == 7
    assert mean["accuracy_low"] is None
    assert table.emergent == {"rot90": {}, "upright": {"contrast": 1, "resize": 1}}


def test_one_metric_for_each_cell_with_a_value(records: list[AnswerRecord]) -> None:
    metrics = make_table(records, ["upright", "rot90"]).metrics()
    assert metrics["accuracy/mean"] == pytest.approx(2 / 3)
    assert metrics["drop/rot90"] == 0.5
    assert "crop_iou/rot90" not in metrics
    compared = {"alone", "tool_gain", "tool_harm", "tool_effect", "tool_effect_low", "tool_effect_high"}
    assert {name.split("/")[0] for name in metrics} == set(CELLS) - {"crop_iou"} - compared | set(INDICES)
    assert metrics["worst_accuracy/orientations"] == pytest.approx(2 / 3)


def test_gain_and_harm_by_hand(records: list[AnswerRecord]) -> None:
    scores = {"a": (0.0, 1.0), "b": (1.0, 0.5), "c": (0.0, 0.0), "d": (None, 0.0)}
    alone = [
        record(item, label, score, key="other")
        for item, both in scores.items()
        for label, score in zip(("upright", "rot90"), both, strict=True)
    ]
    table = make_table(records, ["upright", "rot90"], without_tools=alone)
    upright, turned = table.rows["upright"], table.rows["rot90"]
    assert upright["alone"] == pytest.approx(1 / 3)
    assert (upright["tool_gain"], upright["tool_harm"]) == (pytest.approx(1 / 3), 0), "a was wrong without tools"
    # rot90: a 1 to 1, b 0.5 to 0, c not judged with tools, d 0 to 1
    assert turned["alone"] == pytest.approx(0.5)
    assert (turned["tool_gain"], turned["tool_harm"]) == (pytest.approx(1 / 3), pytest.approx(1 / 6))
    assert turned["tool_effect"] == pytest.approx(1 / 6)
    assert turned["tool_effect_low"] < 1 / 6 < turned["tool_effect_high"]
    mean = table.rows[MEAN]
    assert (mean["tool_gain"], mean["tool_effect_low"]) == (pytest.approx(1 / 3), None)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_drop_is_the_difference_of_accuracies_where_all_questions_are_paired(pairs: list[tuple[bool, bool]]) -> None:
    records = [record(str(n), "upright", float(before)) for n, (before, _) in enumerate(pairs)]
    records += [record(str(n), "jpeg_3", float(after)) for n, (_, after) in enumerate(pairs)]
    rows = make_table(records, ["upright", "jpeg_3"]).rows
    assert MEAN not in rows
    cells = {label: {name: value or 0.0 for name, value in row.items()} for label, row in rows.items()}
    assert cells["jpeg_3"]["drop"] == pytest.approx(cells["upright"]["accuracy"] - cells["jpeg_3"]["accuracy"])
    for row in cells.values():
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (0, 300), (1, 1), (40, 40)])
def test_where_all_or_none_are_right_the_interval_is_exact(n_right: int, n: int) -> None:
    row = make_table([record(str(i), "upright", float(i < n_right)) for i in range(n)], ["upright"]).rows["upright"]
    exact = stats.binomtest(n_right, n).proportion_ci(0.95, method="exact")
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((exact.low, exact.high))


def test_equal_scores_between_are_no_binomial() -> None:
    row = make_table([record(str(i), "upright", 0.75) for i in range(9)], ["upright"]).rows["upright"]
    assert (row["accuracy_low"], row["accuracy_high"]) == (0.75, 0.75)


def test_a_paired_interval_is_tighter_than_two_separate_ones() -> None:
    scores = [float(n % 2) for n in range(100)]
    records = [record(str(n), "upright", score) for n, score in enumerate(scores)]
    records += [record(str(n), "rot90", 0.0 if n < 4 else score) for n, score in enumerate(scores)]
    row = make_table(records, ["upright", "rot90"]).rows["rot90"]
    assert row["drop"] == pytest.approx(0.02)
    assert (
        (row["drop_high"] or 0) - (row["drop_low"] or 0)
        < 0.1
        < (row["accuracy_high"] or 0) - (row["accuracy_low"] or 0)
    )


def test_families_are_told_apart() -> None:
    records = [record("a", "upright", 1.0, family="charts"), record("b", "upright", 0.0), record("b", "rot90", 0.5)]
    table = make_table(records, ["upright", "rot90"])
    assert table.families == {"charts": {"upright": 1.0}, "plates": {"upright": 0.0, "rot90": 0.5}}
    assert make_table(records[1:], ["upright"]).families == {}


def test_json_and_csv_hold_the_same_numbers(records: list[AnswerRecord], tmp_path: Path) -> None:
    table = make_table(records, ["upright", "rot90"])
    json_path, csv_path = write_results(table, FACTS, tmp_path)
    content = json.loads(json_path.read_text(encoding="utf-8"))
    assert content["policy"] == "<tiny>"
    with csv_path.open(encoding="utf-8", newline="") as file:
        rows = {row["condition"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(content["conditions"]) == {"upright", "rot90", MEAN}
    for label, cells in content["conditions"].items():
        assert list(cells) == list(CELLS)
        assert {cell: rows[label][cell] for cell in CELLS} == {c: "" if v is None else str(v) for c, v in cells.items()}
