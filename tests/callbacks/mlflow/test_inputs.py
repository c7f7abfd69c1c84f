"""Data sets as inputs of a run: named by file, hub or class, and identified by their fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.mlflow.inputs import inputs_of
from callbacks.mlflow.logger import BackgroundMLflowLogger

SPLITS: dict[str, Any] = {"train": {"size": None, "fingerprint": "a1"}, "test": {"size": 90, "fingerprint": "b2"}}
FACTS = {"splits": SPLITS, "fingerprint": "c3"}


def test_a_class_a_file_and_the_hub(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    source = {"class_path": "cv_lightning.data.FileSource", "train": str(tmp_path / "rows.jsonl"), "test": "org/plates"}
    train, test = inputs_of(FACTS, source, ["train", "test"])
    assert (train["name"], train["digest"], train["source_type"], train["context"]) == (
        "rows.jsonl",
        "a1",
        "local",
        "training",
    )
    assert train["source"] == {"uri": str(tmp_path / "rows.jsonl")}
    assert (test["name"], test["source_type"], test["source"]) == ("org/plates", "hugging_face", {"path": "org/plates"})
    (world,) = inputs_of(FACTS, {"class_path": "cv_lightning.data.PlateWorld", "seed": 0}, ["test"])
    assert (world["name"], world["source_type"], world["size"]) == ("PlateWorld", "code", 90)


def test_data_without_a_fingerprint_are_left_out() -> None:
    facts = {
        "splits": {"train": {"error": "no such row"}, "test": {"size": 0, "fingerprint": None}},
        "fingerprint": "c",
    }
    assert inputs_of(facts, {}, ["train", "test"]) == []
    assert inputs_of({}, {}, ["train"]) == []
    (whole,) = inputs_of({"splits": {}, "fingerprint": "c3"}, {}, ["train"])
    assert (whole["name"], whole["digest"], whole["size"]) == ("data", "c3", None)


def test_a_run_shows_what_it_trained_and_tested_on_once(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = BackgroundMLflowLogger("e", "rl", uri, folder=tmp_path, flush_s=120)
    source = {"class_path": "cv_lightning.data.PlateWorld"}
    for splits in (["train"], ["test"], ["test"]):
        logger.log_inputs(inputs_of(FACTS, source, splits))
    logger.log_inputs([])
    logger.finalize("success")
    assert logger.run_id is not None
    found = MlflowClient(uri).get_run(logger.run_id).inputs.dataset_inputs
    used = {(one.dataset.name, one.dataset.digest, one.dataset.profile, one.tags[0].value) for one in found}
    assert used == {
        ("PlateWorld", "a1", None, "training"),
        ("PlateWorld", "b2", '{"num_rows": 90}', "testing"),
    }
    assert len(found) == 2
