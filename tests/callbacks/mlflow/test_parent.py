"""In MLflow, runs of a recipe's stages are children of the recipe's run; tags say which is which."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.mlflow.parent import NOTE, parent_tag
from cv_lightning.cli.recipe import load_recipe
from cv_lightning.cli.reproduce import logged

ROOT = Path(__file__).parents[3]
PARENT = "mlflow.parentRunId"


def log(folder: Path, uri: str, tags: dict[str, str] | None = None) -> BackgroundMLflowLogger:
    logger = BackgroundMLflowLogger("e", folder.name, uri, tags=tags, folder=folder, flush_s=60)
    logger.log_metrics({"a": 1.0}, 0)
    return logger


def tags_of(uri: str, logger: BackgroundMLflowLogger) -> dict[str, str]:
    from mlflow.tracking import MlflowClient

    tags: dict[str, str] = MlflowClient(uri).get_run(str(logger.run_id)).data.tags
    return tags


def test_stages_are_children_of_the_recipe_and_of_nothing_else(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    plain = log(tmp_path / "plain", uri)
    plain.finalize("success")
    alone = log(tmp_path / "plain" / "rl", uri)
    recipe = log(tmp_path / "tiny", uri, {"stage": "recipe"})
    stage = log(tmp_path / "tiny" / "rl", uri)  # may start before the recipe's run has an id, but ends after that
    for _ in range(600):
        if recipe.run_id is not None:
            break
        time.sleep(0.1)
    for logger in (stage, alone, recipe):
        logger.finalize("success")
    assert tags_of(uri, stage)[PARENT] == recipe.run_id
    assert PARENT not in tags_of(uri, alone)
    assert PARENT not in tags_of(uri, recipe)


def test_a_recipe_that_was_interrupted_goes_on_in_its_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    recipe, folder = load_recipe(ROOT / "experiments/tiny/recipe.yaml"), tmp_path / "seed_1"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    states = []
    for error in (KeyboardInterrupt, None):
        with suppress(KeyboardInterrupt), logged(recipe, folder) as files:
            if error is not None:
                raise error
            (folder / "report.json").write_text("{}", encoding="utf-8")
            files.append(folder / "report.json")
        run_id = json.loads((folder / NOTE).read_text(encoding="utf-8"))["run_id"]
        states.append((run_id, client.get_run(run_id).info.status))
    assert [state for _, state in states] == ["KILLED", "FINISHED"]
    assert len({run_id for run_id, _ in states}) == 1
    run = client.get_run(states[0][0])
    assert (run.info.run_name, run.data.tags["stage"]) == (str(folder), "recipe")
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["report.json"]


@pytest.mark.parametrize(
    "changes",
    [{"stage": "rl"}, {"tracking_uri": "http://other:1"}, {"experiment": "other"}, {"run_id": None}, {"stage": None}],
)
def test_what_is_no_parent(tmp_path: Path, changes: dict[str, Any]) -> None:
    begin = {"folder": str(tmp_path / "rl"), "experiment": "e"}
    note = {"tracking_uri": "http://host:1", "experiment": "e", "run_id": "id", "stage": "recipe"}
    assert parent_tag(begin, "http://host:1") == {}
    (tmp_path / NOTE).write_text(json.dumps(note), encoding="utf-8")
    assert parent_tag(begin, "http://host:1") == {PARENT: "id"}
    (tmp_path / NOTE).write_text(json.dumps(note | changes), encoding="utf-8")
    assert parent_tag(begin, "http://host:1") == {}
    (tmp_path / NOTE).write_text(json.dumps(note)[:20], encoding="utf-8")
    assert parent_tag(begin, "http://host:1") == {}


def test_every_recipe_of_ours_marks_its_run() -> None:
    loggers = yaml.safe_load((ROOT / "experiments/tiny/recipe.yaml").read_text(encoding="utf-8"))["report_loggers"]
    assert [entry["init_args"]["tags"] for entry in loggers] == [{"stage": "recipe"}]
