"""Reading a recipe: dependencies of stages, changes that the fingerprint detects, and named mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cv_lightning.cli.compose import ROOT
from cv_lightning.cli.recipe import Stage, fingerprint, load_recipe
from cv_lightning.errors import ConfigError
from tests.cv_lightning.cli.fake_recipe import RECIPE, replace, reproduce


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stages:", "stagse:", ["'stagse'", "'stages'"]),
        ("config: sft.yaml", "config: stf.yaml", ["stages.sft.config", "stf.yaml", "'sft.yaml'"]),
        ("after: [base]", "after: [bass]", ["stages.sft.after", "'bass'", "'base'"]),
        ("after: [base]", "atfer: [base]", ["stages.sft", "'atfer'", "'after'"]),
        ("{config: stage.yaml}", "stage.yaml", ["stages.base", "expected {config"]),
        ("stages:", "stages: {", ["cannot be read as YAML"]),
        ("stages:", "jobs: true\nstages:", ["jobs: expected a whole number", "got True"]),
        ("stages:", "report_loggers: 3\nstages:", ["report_loggers: expected a list", "got 3"]),
    ],
)
def test_mistake_in_a_recipe_is_named(old: str, new: str, words: list[str], recipe: Path) -> None:
    replace(recipe / "recipe.yaml", old, new)
    with pytest.raises(ConfigError) as error:
        load_recipe(Path(RECIPE))
    assert [word for word in words if word not in str(error.value)] == [], error.value


def test_missing_recipe_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"experiments/tiny/recipe\.yaml"):
        load_recipe(Path("experiments/tiny/recip.yaml"))


def test_default_recipe_is_found_from_any_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "experiments/tiny/recipe.yaml"
    assert load_recipe(Path("experiments/tiny/recipe.yaml")).path == path


def test_a_stage_of_several_files_is_what_they_come_to(recipe: Path) -> None:
    (recipe / "more.yaml").write_text("trainer: {max_steps: 2}", encoding="utf-8")
    replace(recipe / "recipe.yaml", "config: stage.yaml", "config: [stage.yaml, more.yaml]")
    (stage, *_) = load_recipe(Path(RECIPE)).stages
    assert [path.name for path in stage.configs] == ["stage.yaml", "more.yaml"]
    before = fingerprint(stage, [], [])
    (recipe / "more.yaml").write_text("trainer: {max_steps: 3}", encoding="utf-8")
    assert fingerprint(stage, [], []) != before
    assert reproduce("--stages", "base") == 0
    assert "max_steps: 3\n" in Path("runs/fake/base/config_fit.yaml").read_text(encoding="utf-8")


def test_one_item_may_stand_for_a_list_of_one(recipe: Path) -> None:
    replace(recipe / "recipe.yaml", "after: [base]", "after: base")
    replace(recipe / "recipe.yaml", "stages:", "report_loggers: {class_path: x.Logger}\nstages:")
    loaded = load_recipe(Path(RECIPE))
    assert loaded.stages[1].after == ("base",)
    assert loaded.report_loggers == ({"class_path": "x.Logger"},)


def test_stages_bring_what_they_depend_on(recipe: Path) -> None:
    loaded = load_recipe(Path(RECIPE))
    assert [stage.name for stage in loaded.selected(["sft"])] == ["base", "sft"]
    assert [stage.name for stage in loaded.selected([])] == ["base", "sft", "rl"]


def test_a_stage_on_request_runs_only_where_it_is_named() -> None:
    loaded = load_recipe(ROOT / "experiments/tiny/recipe.yaml")
    assert "rl_outcome_only" not in [stage.name for stage in loaded.selected([])]
    assert "rl_outcome_only" in [stage.name for stage in loaded.selected(["rl", "rl_outcome_only"])]


def test_fingerprint_tells_apart_what_decides_a_result(recipe: Path) -> None:
    stage = Stage("base", (recipe / "stage.yaml",))
    variants = [(["--seed_everything=0"], []), (["--seed_everything=1"], []), (["--seed_everything=0"], ["other"])]
    assert len({fingerprint(stage, arguments, inputs) for arguments, inputs in variants}) == 3
