"""Runs read from folders, grouped, paired and shown; bad input ends in a clear message."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from cv_lightning.__main__ import main as command_line
from cv_lightning.compare.answers import ALL, MCNEMAR, SIGN_FLIP, pair_groups
from cv_lightning.compare.command import main, read_runs
from cv_lightning.compare.comparison import compare
from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run, flatten, minutes_of, read_folder
from cv_lightning.compare.summary import direction, on_grid, summarise, windows
from cv_lightning.compare.terminal import show
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.evaluation.answer_log import AnswerRecord


def a_run(folder: Path, *, seed: int = 0, weight: float = 0.1, scores: tuple[float, ...] = (0.2, 0.4, 0.6)) -> Path:
    """A run's folder as `fit` leaves it."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "run_folder": str(folder.parent),
        "trainer": {"max_steps": 3, "default_root_dir": str(folder), "callbacks": [{"class_path": "a.B"}]},
        "model": {"class_path": "modules.GRPOModule", "init_args": {"seed": seed, "reward": {"format": weight}}},
    }
    (folder / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [f"{step},{score},{score / 2},2.0" for step, score in enumerate(scores)]
    lines = ["step,rollout/accuracy,reward/accuracy,throughput/step_s", *rows, f"{len(scores)},,,"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def answer(item: str, score: float | None, condition: str = "upright", truth: str = "F7") -> AnswerRecord:
    record: dict[str, Any] = {"key": f"{item} {condition}", "item": item, "id": item, "condition": condition}
    record |= {"policy": "p", "family": "plates", "truth": truth, "answer": "F7", "score": score, "graded_by": "rule"}
    record |= {"graded_for": "", "stop_reason": "answered", "turns": ["x"], "n_calls": 1, "outcomes": [True]}
    record |= {"tools": [["rotate_90"]], "is_restored": True, "required": [], "used": [], "crop_iou": None}
    return AnswerRecord(**record)


def a_group(name: str, *of_seeds: list[AnswerRecord], first_seed: int = 0) -> RunGroup:
    runs = [
        Run(f"{name}", f"{name}_{seed}", config={"seed_everything": seed}, answers=answers)
        for seed, answers in enumerate(of_seeds, start=first_seed)
    ]
    return RunGroup(name, runs)


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


def test_terminal_page_and_json_say_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "rl")
    a_run(tmp_path / "<b>plain [red]", weight=0.0)
    page, table = tmp_path / "out.html", tmp_path / "out.json"
    assert main([str(tmp_path), "--html", str(page), "--json", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "rollout/accuracy" in printed
    assert "[red]" in printed
    text = page.read_text(encoding="utf-8")
    assert "<b>plain" not in text
    assert "&lt;b&gt;plain" in text
    assert not re.search(r"<script|(?:src|href)=[\"']?(?:http|//)", text)
    HTMLParser().feed(text)
    content = json.loads(table.read_text(encoding="utf-8"))
    curve = content["curves"]["rollout/accuracy"][0][0]
    assert curve["values"] == [0.2, 0.4, 0.6]
    assert curve["minutes"] == pytest.approx([2 / 60, 4 / 60, 6 / 60])
    assert content["differing"]["model.reward.format"] == {"<b>plain [red]": "0.0", "rl": "0.1"}


def test_stages_stand_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    for name, hour, weight in (("rl", "03", 0.1), ("base", "01", 0.2), ("sft", "02", 0.3)):
        folder = a_run(tmp_path / name, weight=weight)
        (folder / "run_fit.json").write_text(json.dumps({"started": f"2026-11-23T{hour}:00:00"}), encoding="utf-8")
    assert [run.name for run in read_runs([str(tmp_path)])] == ["base", "sft", "rl"]


def test_keys_that_only_some_have_do_not_flood_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = a_run(tmp_path / "a"), a_run(tmp_path / "b", weight=0.3)
    config = yaml.safe_load((second / "config_fit.yaml").read_text(encoding="utf-8"))
    config["data"] = {f"only_{n}": n for n in range(30)}
    config["model"]["class_path"] = "modules.SFTModule"
    (second / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    main([str(first), str(second)])
    printed = capsys.readouterr().out
    assert "SFTModule" in printed
    assert "modules.sft" not in printed
    assert "and 22 more keys that only some have" in printed


def test_metrics_that_are_asked_for_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(a_run(tmp_path / name, weight=weight)) for name, weight in (("a", 0.1), ("b", 0.2))]
    main([*folders, "--metrics", "reward/*"])
    printed = capsys.readouterr().out
    assert "reward/accuracy" in printed
    assert "rollout/accuracy" not in printed
    with pytest.raises(ConfigError, match=r"no/such\* matches none of: reward/accuracy, rollout"):
        main([*folders, "--metrics", "no/such*"])


# ---- the same questions ----------------------------------------------------------------------------------------------


def test_pairs_by_hand() -> None:
    first = a_group("a", [answer("1", 1.0), answer("2", 0.0), answer("3", 0.0), answer("4", 1.0), answer("9", 1.0)])
    second = a_group("b", [answer("1", 1.0), answer("2", 1.0), answer("3", 1.0), answer("4", 0.0), answer("8", 1.0)])
    table = pair_groups(first, second)
    assert (table.n_shared, table.n_first, table.n_second) == (4, 5, 5)
    (row,) = table.rows
    assert (row.condition, row.n, row.first, row.second) == ("upright", 4, 0.5, 0.75)
    assert (row.only_first, row.only_second, row.test) == (1, 2, MCNEMAR)
    assert row.p == 1.0
    assert (row.seeds_ahead, row.seeds_behind, row.n_seeds) == (1, 0, 1)


def test_a_question_of_several_conditions_counts_once_over_all() -> None:
    def of(score: float) -> list[AnswerRecord]:
        return [answer(str(n), score, condition) for n in range(5) for condition in ("upright", "rot90", "hflip")]

    *conditions, over_all = pair_groups(a_group("a", of(0.0)), a_group("b", of(1.0))).rows
    assert [row.condition for row in conditions] == ["upright", "rot90", "hflip"]
    assert [row.p for row in conditions] == [2 / 32] * 3
    assert [row.p_holm for row in conditions] == [6 / 32] * 3
    assert (over_all.condition, over_all.n, over_all.test) == (ALL, 15, SIGN_FLIP)
    # Five questions, not fifteen: two of 32 ways to flip them are as far.
    assert over_all.p == pytest.approx(2 / 32, abs=0.01)


def test_scores_between_take_sign_flips_and_unjudged_answers_do_not_count() -> None:
    first = a_group("a", [answer("1", 0.5), answer("2", None), answer("3", 0.0)])
    second = a_group("b", [answer("1", 1.0), answer("2", 1.0), answer("3", 0.75)])
    (row,) = pair_groups(first, second).rows
    assert (row.n, row.test, row.only_first) == (2, SIGN_FLIP, None)
    assert row.difference == pytest.approx(0.625)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_tables_fit_into_the_terminal_and_name_the_test(width: int) -> None:
    name = "a_rather_long_name_of_a_stage"
    groups = a_group("a", [answer("1", 1.0)]), a_group(name, [answer("1", 0.0)])
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(compare([*groups[0].runs, *groups[1].runs]), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= width
    assert "McNemar" in printed
    assert ("1 : 0" in printed) == (width < 160)


def test_other_seeds_of_the_same_questions_are_paired_by_question() -> None:
    first = a_group("a", [answer("1", 1.0)], [answer("1", 0.0)])
    second = a_group("b", [answer("1", 1.0)], [answer("1", 1.0)], first_seed=5)
    (row,) = pair_groups(first, second).rows
    assert (row.n, row.n_seeds, row.first, row.second) == (1, 0, 0.5, 1.0)


def test_a_question_of_the_same_name_with_another_answer_is_another() -> None:
    first, second = a_group("a", [answer("1", 1.0), answer("2", 1.0)]), a_group("b", [answer("1", 1.0, truth="G4")])
    table = pair_groups(first, second)
    assert (table.n_shared, table.n_other_truth, table.rows) == (0, 1, [])
    notes = " ".join(compare([*first.runs, *second.runs]).notes)
    assert "answered no question in common (2 and 1 answers)" in notes
    assert "1 questions of the same name have another right answer" in notes


def test_how_many_questions_are_shared_is_said() -> None:
    first = a_group("a", [answer(str(n), 1.0) for n in range(4)])
    second = a_group("b", [answer(str(n), 1.0) for n in range(2, 9)])
    assert any("a and b share 2 of 4 and 7 answers" in note for note in compare([*first.runs, *second.runs]).notes)


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


def test_the_interval_of_the_mean_is_of_the_orientations_alone() -> None:
    labels = ("upright", "noise_5", "blur_5")
    answers = [answer(str(n), float(n % 10 > 0 and c == "upright"), c) for n in range(200) for c in labels]
    groups = [a_group("a", answers), a_group("b", answers)]
    for group in groups:
        group.runs[0].curves = {"test/accuracy/mean": [(0.0, 0.9)]}
    (row,) = compare([*groups[0].runs, *groups[1].runs]).conditions["accuracy"].values()
    assert row[0] is not None
    assert row[0].interval is not None
    assert 0.8 < row[0].interval[0] < 0.9 < row[0].interval[1] < 0.96


def test_a_question_of_several_seeds_counts_once() -> None:
    first = [answer(str(n), 0.0) for n in range(5)]
    second = [answer(str(n), 1.0) for n in range(5)]
    (row,) = pair_groups(a_group("a", first, first, first), a_group("b", second, second, second)).rows
    assert (row.n, row.test, row.seeds_ahead) == (15, SIGN_FLIP, 3)
    assert row.p == pytest.approx(2 / 32, abs=0.01)


def test_difference_and_interval_weigh_alike() -> None:
    labels = ("upright", "rot90", "hflip", "vflip", "rot180", "rot270")
    asked = [(str(n), label) for n in range(10) for label in labels] + [(str(n), "upright") for n in range(10, 110)]
    first = [answer(item, 0.0, label) for item, label in asked]
    second = [answer(item, float(int(item) < 10), label) for item, label in asked]
    over_all = pair_groups(a_group("a", first), a_group("b", second)).rows[-1]
    assert over_all.difference == pytest.approx(10 / 110)
    assert over_all.interval is not None
    assert over_all.interval[0] < over_all.difference < over_all.interval[1]


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_one_run_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is one run only, .*rl: name another"):
        main([str(a_run(tmp_path / "rl")), str(tmp_path / "rl")])


def test_a_name_that_is_neither_folder_nor_run_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a run id"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="Name runs to compare"):
        main([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no run"):
        main([str(tmp_path / "empty")])
    assert command_line(["compare", str(tmp_path / "nowhere")]) == 2


def test_runs_without_a_metric_in_common(tmp_path: Path) -> None:
    first, second = a_run(tmp_path / "a"), a_run(tmp_path / "b", weight=0.3)
    (second / "metrics.csv").write_text("step,other\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no metric in common: a logged reward/accuracy, .*; b logged other"):
        main([str(first), str(second)])


def test_half_written_files_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = a_run(tmp_path / "a"), a_run(tmp_path / "b", weight=0.3)
    text = (second / "metrics.csv").read_text(encoding="utf-8")
    (second / "metrics.csv").write_text(text[:-14], encoding="utf-8")
    (second / "run_fit.json").write_text('{"code": {"com', encoding="utf-8")
    (second / "results.json").write_text("[1]", encoding="utf-8")
    line = json.dumps(asdict(answer("1", 1.0)))
    (second / "answers_0.jsonl").write_text(f"{line}\n{line[:40]}", encoding="utf-8")
    assert main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "run_fit.json: cannot be read, left out" in printed
    assert "results.json: expected a mapping but it holds list" in printed
    assert "1 lines of its answers cannot be read" in printed


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        main([str(a_run(tmp_path / "a")), "--html", str(tmp_path / "no" / "out.html")])


# ---- small parts -----------------------------------------------------------------------------------------------------


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


def test_windows_are_a_twentieth_of_a_curve() -> None:
    points = [(float(step), float(step)) for step in range(40)]
    assert windows(points)[-1] == (39.0, 38.5)
    assert windows([(7.0, 3.0)]) == [(7.0, 3.0)]
    group = RunGroup("a", [Run("a", "a", curves={"train/loss": [(0.0, 3.0), (1.0, 1.0), (2.0, 2.0)]})])
    loss = summarise(group, "train/loss")
    assert loss is not None
    assert loss.best is not None
    assert (loss.final.mean, loss.best.mean, loss.best_step) == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        *[("reward/total", 1), ("val/accuracy/mean", 1), ("test/right_after_error/rot90", 1)],
        *[("train/loss", -1), ("test/error_rate/mean", -1), ("tools/error/timeout", -1), ("rollout/turns", 0)],
    ],
)
def test_what_is_better(name: str, sign: int) -> None:
    assert direction(name) == sign


def test_a_grid_is_of_what_all_curves_span() -> None:
    first, second = on_grid([[(0.0, 0.0), (10.0, 10.0)], [(5.0, 1.0), (20.0, 1.0)]], n=6)
    assert [place for place, _ in first] == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert [value for _, value in first] == pytest.approx([5, 6, 7, 8, 9, 10])
    assert {value for _, value in second} == {1.0}
