"""The report page: complete for a full run, and explicit about missing parts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.errors import DataError
from cv_lightning.reports.metrics_log import read_curves
from cv_lightning.reports.run_report import write_report

ORIENTATIONS = ("upright", "rot90", "rot180")


def entry(accuracy: float, **more: Any) -> dict[str, Any]:
    shares = dict.fromkeys(ORIENTATIONS, accuracy)
    return {
        "accuracy": shares,
        "mean": accuracy,
        "tool_rate": shares,
        "restored_rate": shares,
        "mean_turns": 1.5,
        "seconds": 90,
        **more,
    }


def write(folder: Path, stages: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(
        json.dumps({"stages": stages, "seeds": [0], "versions": {"torch": "2.13"}}), encoding="utf-8"
    )


def log(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text, encoding="utf-8")


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_shows_what_was_logged_and_loads_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"base": entry(0.25), "rl": entry(0.955, min={"accuracy": {"rot90": 0.875}, "mean": 0.9})})
    log(tmp_path / "base", "epoch,step,train/loss\n0,0,2.5\n0,10,0.5\n")
    log(tmp_path / "rl", "step,reward/total,reward/usage,rl/kl\n0,1.0,0.0,0.001\n1,1.5,0.0,0.002\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "95.5\n(87.5)" in page
    assert page.count("<svg") == 4  # accuracy, reward/total, rl/kl, the loss of base
    assert "Reward term: usage" not in page  # it never left 0
    assert "rollout/tool_rate" in re.findall(r"Not logged: (.*?)\.</p>", page)[0]
    assert not re.search(r"""(src|href)=["'](?!#)|<script|@import|url\((?!#)""", page)
    assert "#0102" not in page
    assert "#0a0b" not in page
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []


def test_missing_stage_files_and_numbers_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"base": {}, "<b>odd</b>": {"accuracy": {"upright": float("nan")}}})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No stage logged reward/total" in page
    assert "base (no metrics.csv)" in page
    assert "<b>odd" not in page


def test_curves_of_several_seeds_are_found_below_the_seeds(tmp_path: Path) -> None:
    write(tmp_path, {"sft": entry(0.5)})
    for seed in (0, 1):
        log(tmp_path / f"seed_{seed}" / "sft", f"step,train/loss\n0,{seed + 1}\n1,0.5\n")
    assert write_report(tmp_path).read_text(encoding="utf-8").count("<svg") == 2


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    write(tmp_path, {"base": entry(0.25)})
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()


def test_no_report_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json"):
        write_report(tmp_path)


def test_read_curves_joins_rows_of_a_step_and_skips_what_is_no_number(tmp_path: Path) -> None:
    log(tmp_path, "step,a,b\n1,,7\n0,1.0,nan\n1,2.0,\n2,x,inf\n,9,9\n")
    assert read_curves(tmp_path / "metrics.csv") == {"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(1.0, 7.0)]}


def test_claims_come_first_with_numbers_example_and_links(tmp_path: Path) -> None:
    finding = {
        "text": "upright <b>",
        "value": 0.975,
        "low": 0.95,
        "high": 1.0,
        "needed": "at least 97 %",
        "verdict": "reproduced",
        "is_share": True,
    }
    claim = {
        "name": "brittleness",
        "paper": "up to -80 %",
        "arms": ["base"],
        "verdict": "reproduced",
        "reason": "",
        "findings": [finding],
        "example": {"arm": "base", "seed": 0, "id": "turned-1", "turns": ["<think>"], "answer": "F", "truth": "G"},
    }
    other = {**claim, "name": "chains", "verdict": "cannot be judged", "reason": "rl: did not run", "findings": []}
    for step in ("step_00000001", "step_00000101"):
        (tmp_path / "base/trajectories" / step).mkdir(parents=True)
        (tmp_path / "base/trajectories" / step / "index.html").touch()
    (tmp_path / "report.json").write_text(
        json.dumps({"stages": {"base": entry(0.9)}, "claims": [claim, other], "failed": {"rl": "failed: <i>"}})
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.index("Claims") < page.index("Accuracy by orientation")
    assert "97.5 %" in page
    assert "95.0 % to 100.0 %" in page
    assert "upright &lt;b&gt;" in page
    assert "Not judged: rl: did not run." in page
    assert 'href="base/trajectories/step_00000101/index.html"' in page
    assert "step_00000001" not in page
    assert "rl: failed: &lt;i&gt;" in page
