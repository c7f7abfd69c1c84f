"""Trajectories written for readers: complete, and harmless whatever the policy wrote."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.rollouts import Rollouts
from callbacks.trajectories import Trajectories, pick, turn_tokens, write_trajectories
from cv_lightning.errors import ConfigError
from cv_lightning.rewards import RewardConfig
from cv_lightning.types import ViewedImage
from sandbox import Affine
from tests.callbacks.shown import group_of

HOSTILE = (
    "</pre></style></title><script>alert(1)</script><img src=x onerror=alert(1)>"
    "<iframe src='http://x'></iframe><!-- <![CDATA[ \" onload=\"x' &lt;script&gt; \x00\x1b\ud800\u202e"
)


def test_hostile_text_stays_text_on_the_page_and_in_the_lines(tmp_path: Path) -> None:
    group, breakdowns = group_of(HOSTILE, [1.0, 0.0, None])
    page = write_trajectories(pick([group], [breakdowns], 1), tmp_path / "step", HOSTILE).read_text(encoding="utf-8")
    assert "<iframe" not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2, "the data and the one script of the page"
    lines = [json.loads(line) for line in (tmp_path / "step" / "trajectories.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["best", "worst", "sampled"]
    assert [line["reward"] for line in lines] == [1.0, 0.0, None]
    assert lines[0]["turns"][0]["text"] == HOSTILE
    assert {path.name for path in tmp_path.iterdir()} == {"step"}


def test_images_are_saved_once_and_to_the_pixel(tmp_path: Path) -> None:
    group, breakdowns = group_of("x", [1.0, 0.0])
    write_trajectories(pick([group], [breakdowns], 2), tmp_path, "Step 1")
    lines = [json.loads(line) for line in (tmp_path / "trajectories.jsonl").read_text().splitlines()]
    assert len(list((tmp_path / "images").iterdir())) == 2
    for viewed, entry in zip(group.trajectories[0].images, lines[0]["images"], strict=True):
        with Image.open(tmp_path / entry["file"]) as saved:
            assert saved.tobytes() == viewed.image.tobytes()


def test_written_and_sent_when_due_even_if_the_due_step_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, bool, str]] = []
    traced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        BackgroundMLflowLogger,
        "log_artifact",
        lambda self, path, artifact_path: sent.append((path.name, (path / "index.html").exists(), artifact_path)),
    )
    monkeypatch.setattr(BackgroundMLflowLogger, "log_traces", lambda self, path, step: traced.append((path.name, step)))
    loggers = [CSVLogger(tmp_path), BackgroundMLflowLogger(folder=tmp_path)]
    group, breakdowns = group_of("x", [1.0, 0.0])
    callback = Trajectories(every_n_steps=10, n=1)
    module: Any = None
    for step in (2, 4, 8, 12, 14, 20):
        trainer: Any = SimpleNamespace(
            global_step=step, is_global_zero=True, default_root_dir=str(tmp_path), loggers=loggers
        )
        callback.on_rollout(trainer, module, Rollouts([group], [breakdowns]))
    written = sorted(path.name for path in (tmp_path / "trajectories").iterdir())
    assert written == ["step_00000002", "step_00000012", "step_00000020"]
    assert sent == [(name, True, f"trajectories/{name}") for name in written]
    assert traced == list(zip(written, (2, 12, 20), strict=True))


def test_records_hold_frames_credit_and_calls(tmp_path: Path) -> None:
    group, breakdowns = group_of("x", [1.0, 0.0])
    frame = Affine(0, 1, 0, 1, 0, 0)
    group.trajectories[0].images[1] = ViewedImage(Image.new("RGB", (4, 6)), 0, frame, "rotate_270", 0)
    reward = RewardConfig()
    write_trajectories(pick([group], [breakdowns], 1), tmp_path, "Step 5", 5, reward)
    first = json.loads((tmp_path / "trajectories.jsonl").read_text().splitlines()[0])
    assert (first["schema"], first["step"], first["group"], first["rollout"]) == (2, 5, 0, 0)
    assert first["images"][1] | {"file": ""} == {
        "file": "",
        "turn": 0,
        "width": 4,
        "height": 6,
        "root": 0,
        "orientation": "rotate_270",
        "frame": [0, 1, 0, 1, 0, 0],
    }
    assert first["turns"][0]["call"] == {"name": "code_image_tool", "code": "x", "description": "x"}
    assert sum(turn["credit"].get("accuracy", 0.0) for turn in first["turns"]) == first["terms"]["accuracy"]
    documented = re.findall(
        r"`(\w+)`", (Path(__file__).parents[2] / "docs/trajectories.md").read_text(encoding="utf-8")
    )
    keys = {*first, *first["images"][0], *first["turns"][0], *first["turns"][0]["observation"]}
    assert keys <= set(documented)


def test_tokens_of_a_turn_are_those_it_read_and_those_it_wrote() -> None:
    group, _ = group_of("x", [1.0])
    (trajectory,) = group.trajectories
    tokens = trajectory.tokens
    for n, is_trained in ((7, False), (2, True), (4, False), (3, True), (1, False)):
        tokens.append([0] * n, is_trained=is_trained)
    assert turn_tokens(trajectory) == [{"read": 7, "written": 2}, {"read": 13, "written": 3}]
    tokens.append([0], is_trained=True)
    assert turn_tokens(trajectory) == [], "three turns of tokens for two turns"


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    group, breakdowns = group_of("x", [1.0, 0.0])
    callback, module = Trajectories(tmp_path / "file", every_n_steps=1, n=1), SimpleNamespace()

    def step(number: int) -> None:
        trainer: Any = SimpleNamespace(global_step=number, is_global_zero=True, default_root_dir=".", loggers=[])
        callback.on_rollout(trainer, module, Rollouts([group], [breakdowns]))  # type: ignore[arg-type]

    with pytest.warns(UserWarning, match="cannot write"):
        step(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(2)  # warned only once


@pytest.mark.parametrize("name", ["every_n_steps", "n"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Trajectories: {name}"):
        Trajectories(**{name: 0})
