"""Runs in a real MLflow store: found by id and experiment, compared and viewed; errors for missing runs and stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.__main__ import main as command_line
from cv_lightning.compare.command import main as compare
from cv_lightning.compare.command import read_runs
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.tracking.stores import Stores
from cv_lightning.viewer.command import main as view

NOWHERE = "0" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with curves and a config, one of them with trajectories, and a third run that logged nothing."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/runs/tiny/mlflow.db"
    for name, weight in (("rl", 0.1), ("plain", 0.0)):
        own = folder / "runs" / "tiny" / name
        logger = BackgroundMLflowLogger("tiny", name, uri, folder=own, flush_s=60)
        for step, value in enumerate((0.25, 0.5, 0.75 + weight)):
            logger.log_metrics({"rollout/accuracy": value, "throughput/step_s": 6.0}, step)
        config = {"seed_everything": 0, "model": {"class_path": "a.B", "init_args": {"name": name, "format": weight}}}
        (own / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        logger.log_artifact(own / "config_fit.yaml")
        if name == "rl":
            step_folder = own / "trajectories" / "step_00000002"
            (step_folder / "images").mkdir(parents=True)
            Image.new("RGB", (6, 4)).save(step_folder / "images" / "a.png")
            record = {"id": "plate-7", "images": [{"file": "images/a.png", "turn": -1}], "turns": []}
            (step_folder / "trajectories.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
            logger.log_artifact(step_folder, "trajectories/step_00000002")
        logger.finalize("success")
    empty = BackgroundMLflowLogger("tiny", "recipe", uri, folder=folder / "runs" / "tiny", flush_s=60)
    empty.set_tags({"stage": "recipe"})
    empty.finalize("success")
    return folder


def run_id(folder: Path, name: str) -> str:
    note = json.loads((folder / "runs" / "tiny" / name / "mlflow_run.json").read_text(encoding="utf-8"))
    return str(note["run_id"])


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_runs_by_id_are_what_their_folders_say(folder: Path) -> None:
    first, second = read_runs([run_id(folder, "rl"), run_id(folder, "plain")])
    assert (first.name, second.name) == ("rl", "plain")
    assert first.config["model.format"] == 0.1
    assert first.curves["rollout/accuracy"] == [(0.0, 0.25), (1.0, 0.5), (2.0, 0.85)]
    assert [minutes for _, minutes in first.minutes] == pytest.approx([0.1, 0.2, 0.3])


def test_an_experiment_is_compared_without_the_runs_that_hold_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(["--experiment", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "model.format" in printed
    assert "best 0.850 at 2" in printed
    assert "left out" in printed


def test_view_fetches_the_trajectories_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = run_id(folder, "rl")
    assert view([own]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.name == f"trajectories_{own}.html"
    text = page.read_text(encoding="utf-8")
    assert "plate-7" in text
    assert "data:image/webp" in text
    assert f"rl {own[:8]}" in text
    with pytest.raises(DataError, match="recorded no trajectories"):
        view([run_id(folder, "plain")])


def test_a_run_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = "sqlite:///runs/tiny/mlflow.db"
    for command in (["view", NOWHERE], ["compare", NOWHERE, run_id(folder, "rl"), "--tracking-uri", uri]):
        assert command_line(command) == 1
        assert f"There is no run {NOWHERE} in runs/tiny/mlflow.db" in capsys.readouterr().err


def test_no_store_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"in any store. Name the store with --tracking-uri.*no runs/\*\*/mlflow.db"):
        Stores().find(NOWHERE)
    with pytest.raises(ConfigError, match=r"there is no file 'no\.db'"):
        Stores("sqlite:///no.db")
    assert not (tmp_path / "no.db").exists()


@pytest.mark.parametrize("uri", ["ftp://host", "mlruns", "http://", "sqlite://no.db"])
def test_a_scheme_that_mlflow_cannot_use(uri: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="tracking_uri"):
        view([NOWHERE, "--tracking-uri", uri])
    with pytest.raises(ConfigError, match="tracking_uri"):
        compare([NOWHERE, "--tracking-uri", uri])


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9 cannot be read"):
        compare([NOWHERE, "--tracking-uri", "http://127.0.0.1:9"])
    (tmp_path / "text.db").write_text("no database\n" * 200, encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.db cannot be read"):
        Stores(f"sqlite:///{tmp_path}/text.db").find(NOWHERE)


def test_a_broken_store_that_nobody_named_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = folder / "runs" / "broken" / "mlflow.db"
    broken.parent.mkdir()
    broken.write_text("no database\n" * 200, encoding="utf-8")
    try:
        assert Stores().find(run_id(folder, "rl")).title.startswith("rl ")
        assert "warning: MLflow: sqlite:///runs/broken/mlflow.db cannot be read" in capsys.readouterr().err
    finally:
        broken.unlink()


def test_an_experiment_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"there is no 'tinny' in .*Did you mean 'tiny'"):
        compare(["--experiment", "tinny"])
    with pytest.raises(DataError, match="'Default' has no run"):
        compare(["--experiment", "Default"])
