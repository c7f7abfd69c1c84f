"""The tables of a report: shares in percent, the lowest of several seeds below the mean, dashes for missing values."""

from __future__ import annotations

from cv_lightning.reports.stage_tables import stage_tables


def test_several_seeds_show_the_mean_and_the_minimum() -> None:
    entry = {
        "accuracy": {"upright": 0.955, "rot90": 0.5},
        "mean": 0.7275,
        "min": {"accuracy": {"upright": 0.875, "rot90": 0.25}, "mean": 0.6},
        "tool_rate": {"upright": 0.125, "rot90": 1.0, "rot180": 0.5},
        "restored_rate": {"upright": 0.0, "rot90": 0.5},
        "mean_turns": 2.0,
        "seconds": 90.0,
    }
    accuracy, tools = stage_tables({"seeds": [0, 1], "stages": {"rl": entry}})
    assert accuracy.title == "Accuracy by orientation, % (seed 0, 1)"
    assert accuracy.head == ["stage", "upright", "rot90", "mean"]
    assert accuracy.rows == [["rl", "95.5\n(87.5)", "50.0\n(25.0)", "72.8\n(60.0)"]]
    assert tools.rows == [["rl", "12.5", "75.0", "50.0", "2.00", "1.5"]]


def test_a_stage_without_numbers_has_gaps() -> None:
    accuracy, tools = stage_tables({"stages": {"base": {"accuracy": {"upright": 1.0}, "mean": 1.0}, "sft": {}}})
    assert accuracy.rows == [["base", "100.0", "100.0"], ["sft", "-", "-"]]
    assert tools.rows[1] == ["sft", "-", "-", "-", "-", "-"]
