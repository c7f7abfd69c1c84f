"""Runs of one config are a group, and an evaluation belongs to the run that made its policy."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from cv_lightning.compare.command import read_runs
from cv_lightning.compare.comparison import compare
from cv_lightning.compare.run import read_folder
from tests.cv_lightning.compare.made_runs import a_run, answer


def test_seeds_of_one_config_are_one_group_and_the_weight_that_differs_is_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_run(tmp_path / f"seed_{seed}" / "rl", seed=seed)
        a_run(tmp_path / f"seed_{seed}" / "plain", seed=seed, weight=0.0, scores=(0.1, 0.2, 0.3 + seed / 10))
    comparison = compare(read_runs([str(tmp_path)]))
    assert [(group.name, group.seeds) for group in comparison.groups] == [("plain", [0, 1]), ("rl", [0, 1])]
    assert comparison.differing == {"model.reward.format": ["0.0", "0.1"]}
    final = comparison.metrics["rollout/accuracy"][0]
    assert final is not None
    assert final.final.of_runs == pytest.approx([0.3, 0.4])
    assert final.final.interval == pytest.approx((0.3, 0.4))
    assert final.best is not None
    assert final.best_step == 2


def test_two_configs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [read_folder(a_run(tmp_path / name / "rl", weight=weight)) for name, weight in (("a", 0.1), ("b", 0.3))]
    assert [group.name for group in compare(runs).groups] == ["rl", "rl (2)"]


def test_an_evaluation_is_given_to_the_run_that_made_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [a_run(tmp_path / "runs" / name, weight=weight) for name, weight in (("rl", 0.1), ("plain", 0.0))]
    for folder, score in zip(folders, (0.0, 1.0), strict=True):
        (folder / "policy").mkdir()
        tested = tmp_path / "eval" / folder.name
        tested.mkdir(parents=True)
        source = {"class_path": "modules.policy.Policy", "init_args": {"source": f"runs/{folder.name}/policy"}}
        solver = {"class_path": "modules.LocalSolver", "init_args": {"policy": source}}
        model = {"class_path": "modules.RobustnessTest", "init_args": {"solver": solver}}
        (tested / "config_test.yaml").write_text(yaml.safe_dump({"seed_everything": 0, "model": model}))
        cells = {"upright": {"accuracy": score, "n": 2.0, "drop": None}}
        (tested / "results.json").write_text(json.dumps({"conditions": cells}))
        answers = [asdict(answer(str(n), score)) for n in range(2)]
        (tested / "answers_0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in answers))
    comparison = compare(read_runs([*map(str, folders), str(tmp_path / "eval")]))
    assert [group.name for group in comparison.groups] == ["rl", "plain"]
    assert comparison.groups[1].runs[0].evaluated_by == str(tmp_path / "eval" / "plain")
    assert comparison.paired[0].rows[0].only_second == 2
    assert comparison.answer_tools == {"rotate_90": [1.0, 1.0]}
    (accuracy,) = comparison.conditions["accuracy"].values()
    assert accuracy[1] is not None
    assert accuracy[1].mean == 1.0
