"""The files and tags of a run show what was run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import MLFlowLogger

from callbacks import config_and_code as module
from callbacks.config_and_code import ConfigAndCode, code_facts, machine_facts, run_facts, without_passwords
from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.data.worlds.plates import PlateWorld


class Recording(BackgroundMLflowLogger):
    """Records its calls."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)
        self.files: list[str] = []
        self.tags: dict[str, str] = {}
        self.parameters: list[Any] = []
        self.inputs: list[tuple[str, str]] = []

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        assert Path(path).exists()
        self.files.append(Path(path).name)

    def set_tags(self, tags: Any) -> None:
        self.tags |= tags

    def log_inputs(self, datasets: Any) -> None:
        self.inputs += [(one["name"], one["context"]) for one in datasets]

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        if params:
            self.parameters.append(params)


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    (root / "code.py").write_text("a = 1\n", encoding="utf-8")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "_ROOT", root)
    return root


def trainer_in(folder: Path, logger: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        limit_test_batches=1,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ConfigAndCode()],
    )


def test_changed_code_is_kept_with_the_run(checkout: Path, tmp_path: Path) -> None:
    (checkout / "code.py").write_bytes(b"a = 2  # caf\xe9\n")
    (checkout / "new.py").touch()
    folder = tmp_path / "runs" / "sft"
    folder.mkdir(parents=True)
    (folder / "config_fit.yaml").write_text("model: {lr: 0.5}\nuri: http://me:secret@host\n", encoding="utf-8")
    logger = Recording(folder)
    trainer = trainer_in(folder, logger)
    trainer.fit(BoringModel())
    trainer.test(BoringModel(), verbose=False)
    facts = json.loads((folder / "run_fit.json").read_text(encoding="utf-8"))
    assert facts["code"]["is_changed"]
    assert facts["code"]["unknown_files"] == ["new.py"]
    assert len(facts["code"]["commit"]) == 40
    assert facts["packages"]["torch"]
    git(checkout, "checkout", "-q", "code.py")
    git(checkout, "apply", str(folder / "code_fit.diff"))
    assert (checkout / "code.py").read_bytes() == b"a = 2  # caf\xe9\n"
    assert logger.files == ["run_fit.json", "code_fit.diff", "config_fit.yaml", "run_test.json", "code_test.diff"]
    assert logger.parameters == [{"model": {"lr": 0.5}, "uri": "http://me:***@host"}]
    assert logger.tags["code.commit"] == facts["code"]["commit"]
    assert logger.tags["code.changed"] == "True"


def test_data_are_inputs_of_what_they_are_used_for(checkout: Path, tmp_path: Path) -> None:
    data = BoringDataModule()
    data.source = PlateWorld(seed=0)  # type: ignore[attr-defined]
    (tmp_path / "config_fit.yaml").write_text("data: {source: {class_path: cv_lightning.data.PlateWorld}}\n", "utf-8")
    logger = Recording(tmp_path)
    trainer = trainer_in(tmp_path, logger)
    trainer.fit(BoringModel(), datamodule=data)
    trainer.test(BoringModel(), datamodule=data, verbose=False)
    assert logger.inputs == [("PlateWorld", "training"), ("data", "testing")], "the test has no config"


def test_committed_code_leaves_no_difference_of_an_earlier_run(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    (checkout / "code.py").write_text("a = 2\n", encoding="utf-8")
    trainer_in(folder, False).fit(BoringModel())
    assert (folder / "code_fit.diff").exists()
    git(checkout, "commit", "-q", "-a", "-m", "second")
    trainer_in(folder, False).fit(BoringModel())
    assert not (folder / "code_fit.diff").exists()
    assert not json.loads((folder / "run_fit.json").read_text(encoding="utf-8"))["code"]["is_changed"]


def test_lightnings_own_mlflow_logger_gets_files_and_tags(checkout: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = []

    class Client:
        def log_artifact(self, run_id: str, path: str) -> None:
            calls.append(("file", run_id, Path(path).name))

        def set_tag(self, run_id: str, name: str, value: str) -> None:
            calls.append(("tag", run_id, name))

    class Fake(MLFlowLogger):
        experiment = Client()
        run_id = "r"

        def __init__(self) -> None:
            pass

    module._send(Fake(), [tmp_path / "run_fit.json"], tmp_path / "config_fit.yaml", run_facts(checkout), ["train"])
    assert ("file", "r", "run_fit.json") in calls
    assert ("tag", "r", "code.commit") in calls


@pytest.mark.parametrize("why", ["no repository", "no git", "no answer"])
def test_without_git_the_rest_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if why == "no git":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif why == "no answer":

        def hang(*_: Any, **kwargs: Any) -> Any:
            raise subprocess.TimeoutExpired("git", kwargs["timeout"])

        monkeypatch.setattr(subprocess, "run", hang)
    facts = code_facts(tmp_path)
    assert facts["commit"] is None
    assert not facts["is_changed"]


def test_machine() -> None:
    machine = machine_facts()
    assert machine["memory_gib"] > 0.2
    assert 1 <= machine["n_usable_processors"] <= machine["n_processors"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--uri postgresql://me:s3cr:et@host/db x", "--uri postgresql://me:***@host/db x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
