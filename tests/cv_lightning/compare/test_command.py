"""The command: its output and its files; bad input ends in a clear message."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_lightning.__main__ import main as command_line
from cv_lightning.compare.command import main
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.viewer.command import write
from tests.cv_lightning.compare.made_runs import a_noted_run, a_run, answer


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
    assert "and 22 more keys that only some groups have" in printed


def test_metrics_that_are_asked_for_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(a_run(tmp_path / name, weight=weight)) for name, weight in (("a", 0.1), ("b", 0.2))]
    main([*folders, "--metrics", "reward/*"])
    printed = capsys.readouterr().out
    assert "reward/accuracy" in printed
    assert "rollout/accuracy" not in printed
    with pytest.raises(ConfigError, match=r"no/such\* matches none of: reward/accuracy, rollout"):
        main([*folders, "--metrics", "no/such*"])


def test_one_run_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is only one run, .*rl: name another"):
        main([str(a_run(tmp_path / "rl")), str(tmp_path / "rl")])


def test_a_name_that_is_neither_folder_nor_run_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a run id"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="Name runs to compare"):
        main([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no run"):
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
    assert "results.json: expected a mapping, got list" in printed
    assert "1 lines of its answers cannot be read" in printed


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        main([str(a_run(tmp_path / "a")), "--html", str(tmp_path / "no" / "out.html")])


def plain_answer(item: str, score: float) -> AnswerRecord:
    texts = dict.fromkeys(("id", "policy", "family", "truth", "answer", "graded_by", "graded_for"), "x")
    lists: dict[str, Any] = {name: [] for name in ("turns", "outcomes", "tools", "required", "used")}
    other = {"condition": "upright", "stop_reason": None, "n_calls": 0, "is_restored": True, "crop_iou": None}
    return AnswerRecord(key=item, item=item, score=score, **texts, **lists, **other)


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_folder_is_no_place_for_a_file(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"{option}: .* is a folder"):
        main(["nowhere", option, str(tmp_path)])  # before it looks for the runs
    with pytest.raises(ConfigError, match=r"--out: .* is a folder"):
        write(tmp_path / "nowhere", tmp_path)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    runs = [str(a_noted_run(tmp_path / "a")), str(a_noted_run(tmp_path / "b", 0.2))]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main([*runs, "--json", str(pipe)]) == 0
        assert json.loads(os.read(reader, 65536))["curves"]["train/loss"]
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_lane_contract_and_version_of_kornia_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract is from the config, the version from the installed packages, and the lane from the logged calls."""
    for exactness, place in (("exact", "kornia"), ("close", "kornia_close")):
        folder = a_noted_run(tmp_path / exactness, packages={"kornia": f"0.9.{len(place)}"})
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


def test_answers_are_compared_without_torch_or_mlflow(tmp_path: Path) -> None:
    runs = [str(a_noted_run(tmp_path / name, lr)) for name, lr in (("a", 0.1), ("b", 0.2))]
    for run, score in zip(runs, (0.0, 1.0), strict=True):
        (Path(run) / "answers_0.jsonl").write_text(
            json.dumps(asdict(plain_answer("1", score))) + "\n", encoding="utf-8"
        )
    program = (
        f"import sys\nfrom cv_lightning.compare.command import main\nmain({runs!r})\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "on the same questions" in done.stdout
