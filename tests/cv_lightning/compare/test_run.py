"""Reading a run from its folder."""

from __future__ import annotations

import json
from pathlib import Path

from cv_lightning.compare.command import read_runs
from cv_lightning.compare.run import curves_of_results, flatten, minutes_of, read_folder
from tests.cv_lightning.compare.made_runs import a_noted_run, a_run


def test_stages_stand_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    for name, hour, weight in (("rl", "03", 0.1), ("base", "01", 0.2), ("sft", "02", 0.3)):
        folder = a_run(tmp_path / name, weight=weight)
        (folder / "run_fit.json").write_text(json.dumps({"started": f"2026-11-23T{hour}:00:00"}), encoding="utf-8")
    assert [run.name for run in read_runs([str(tmp_path)])] == ["base", "sft", "rl"]


def test_a_config_is_flattened_to_names_one_would_say() -> None:
    config = {
        "model": {"class_path": "a.B", "init_args": {"lr": 1, "kind": [1, 2]}},
        "callbacks": [{"class_path": "c.D", "init_args": {"n": 3}}],
        "empty": [],
    }
    expected = {"model": "a.B", "model.lr": 1, "model.kind": [1, 2]}
    assert flatten(config) == {**expected, "callbacks.D": "c.D", "callbacks.D.n": 3, "empty": []}


def test_minutes_count_the_steps_between() -> None:
    assert minutes_of({"throughput/step_s": [(9.0, 6.0), (19.0, 3.0)]}) == [(9.0, 1.0), (19.0, 1.5)]
    assert minutes_of({"train/loss": [(0.0, 1.0)]}) == []


def test_parts_of_a_wrong_type_are_named_and_left_out(tmp_path: Path) -> None:
    folder = a_noted_run(tmp_path / "a", code="x", packages=["x"], python="3.12")
    (folder / "config_fit.yaml").write_text("model: {class_path: a.B, init_args: foo}\ntrainer: 3\n", encoding="utf-8")
    (folder / "metrics.1.csv").write_text("step,loss\n0," + "1" * 200_000 + "\n", encoding="utf-8")
    run = read_folder(folder)
    assert (run.name, run.facts) == ("a", {"python": "3.12"})
    faults = " ".join(run.faults)
    for part in ("facts: code", "facts: packages", "config: trainer", "config: model: init_args", "metrics.1.csv"):
        assert part in faults
    assert run.curves["train/loss"] == [(0.0, 1.0), (1.0, 0.5)]


def test_only_finite_numbers_of_a_table_are_metrics() -> None:
    cells = {"nan": float("nan"), "inf": float("inf"), "bool": True, "huge": 10**400, "text": "1", "accuracy": 1}
    assert curves_of_results({"conditions": {"upright": cells}}) == {"test/accuracy/upright": [(0.0, 1.0)]}
