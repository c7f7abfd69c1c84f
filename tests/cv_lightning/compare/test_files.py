"""Files of wrong types are named and left out; what is written goes where it was meant to."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_lightning.compare.command import main
from cv_lightning.compare.run import curves_of_results, read_folder
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.viewer.command import write


def answer(item: str, score: float) -> AnswerRecord:
    texts = dict.fromkeys(("id", "policy", "family", "truth", "answer", "graded_by", "graded_for"), "x")
    lists: dict[str, Any] = {name: [] for name in ("turns", "outcomes", "tools", "required", "used")}
    other = {"condition": "upright", "stop_reason": None, "n_calls": 0, "is_restored": True, "crop_iou": None}
    return AnswerRecord(key=item, item=item, score=score, **texts, **lists, **other)


def a_run(folder: Path, lr: float = 0.1, **facts: Any) -> Path:
    folder.mkdir()
    config = {"seed_everything": 0, "model": {"class_path": "a.B", "init_args": {"lr": lr}}}
    (folder / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "run_fit.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "metrics.csv").write_text("step,train/loss\n0,1.0\n1,0.5\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_folder_is_no_place_for_a_file(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"{option}: .* is a folder"):
        main(["nowhere", option, str(tmp_path)])  # before the runs are looked for
    with pytest.raises(ConfigError, match=r"--out: .* is a folder"):
        write(tmp_path / "nowhere", tmp_path)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    runs = [str(a_run(tmp_path / "a")), str(a_run(tmp_path / "b", 0.2))]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main([*runs, "--json", str(pipe)]) == 0
        assert json.loads(os.read(reader, 65536))["curves"]["train/loss"]
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_parts_of_a_wrong_type_are_named_and_left_out(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "a", code="x", packages=["x"], python="3.12")
    (folder / "config_fit.yaml").write_text("model: {class_path: a.B, init_args: foo}\ntrainer: 3\n", encoding="utf-8")
    (folder / "metrics.1.csv").write_text("step,loss\n0," + "1" * 200_000 + "\n", encoding="utf-8")
    run = read_folder(folder)
    assert (run.name, run.facts) == ("a", {"python": "3.12"})
    faults = " ".join(run.faults)
    for part in ("facts: code", "facts: packages", "config: trainer", "config: model: init_args", "metrics.1.csv"):
        assert part in faults
    assert run.curves["train/loss"] == [(0.0, 1.0), (1.0, 0.5)]


def test_lane_contract_and_version_of_kornia_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As configured and installed, and, of the calls, as they ran."""
    for exactness, place in (("exact", "kornia"), ("close", "kornia_close")):
        folder = a_run(tmp_path / exactness, packages={"kornia": f"0.9.{len(place)}"})
        rollout = {"lane": "auto", "device": "cuda", "exactness": exactness}
        config = {"seed_everything": 0, "model": {"class_path": "a.B", "init_args": {"rollout": rollout}}}
        (folder / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        metrics = f"step,tools/lane/{place},tools/lane/pillow\n0,0.75,0.25\n"
        (folder / "metrics.csv").write_text(metrics, encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    lines = [re.sub(r"[\W_]+", " ", line).split() for line in capsys.readouterr().out.splitlines()]
    shown = [" ".join(line) for line in lines]
    assert any(line.startswith("model rollout exactness close exact") for line in shown)
    assert any(line.startswith("package kornia 0 9 12 0 9 6") for line in shown)
    assert any(line.startswith("tools lane kornia close 0 75") for line in shown)
    assert any(line.startswith("tools lane pillow 0 25") for line in shown)


def test_only_finite_numbers_of_a_table_are_metrics() -> None:
    cells = {"nan": float("nan"), "inf": float("inf"), "bool": True, "huge": 10**400, "text": "1", "accuracy": 1}
    assert curves_of_results({"conditions": {"upright": cells}}) == {"test/accuracy/upright": [(0.0, 1.0)]}


def test_answers_are_compared_without_torch_or_mlflow(tmp_path: Path) -> None:
    runs = [str(a_run(tmp_path / name, lr)) for name, lr in (("a", 0.1), ("b", 0.2))]
    for run, score in zip(runs, (0.0, 1.0), strict=True):
        (Path(run) / "answers_0.jsonl").write_text(json.dumps(asdict(answer("1", score))) + "\n", encoding="utf-8")
    program = (
        f"import sys\nfrom cv_lightning.compare.command import main\nmain({runs!r})\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "on the same questions" in done.stdout
