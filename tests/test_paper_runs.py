"""The kept answers of the paper's recipe give the verdicts and figures of docs/paper.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from cv_lightning.cli.stage import Progress
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.reports.arms import Arm
from cv_lightning.reports.claims import judge_claims
from cv_lightning.reports.verdicts import Verdict
from tests.benchmark_script import ROOT, load_script
from tests.cv_lightning.reports.made_arms import record

SEEDS = sorted((ROOT / "docs/paper_runs").glob("seed_*.json.xz"))
ROWS = [
    [cell.strip(" *`") for cell in line.strip("| \n").split("|")]
    for line in (ROOT / "docs/paper.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("paper_claims")


@pytest.fixture(scope="module")
def arms(script: ModuleType) -> dict[int, dict[str, Arm]]:
    return {number: script.read_kept(path) for number, path in enumerate(SEEDS)}


def test_verdicts(arms: Mapping[int, Mapping[str, Arm]]) -> None:
    verdicts = {str(claim["name"]): str(claim["verdict"]) for claim in judge_claims(arms)}
    written = {row[0]: row[1] for row in ROWS if row[0] in verdicts and row[1] in {*Verdict}}
    assert written == verdicts


def test_right_answers_by_family(arms: Mapping[int, Mapping[str, Arm]]) -> None:
    head = next(row for row in ROWS if row[1:3] == ["read", "turned"])
    families = [name for name in head if any(name == record.family for record in arms[0]["rl"].answers.values())]
    written = {row[0]: row[1 : 1 + len(families)] for row in ROWS[ROWS.index(head) + 2 :] if row[0] in arms[0]}
    assert written == {
        name: [" / ".join(f"{share(of_seed[name], family):g}" for of_seed in arms.values()) for family in families]
        for name in arms[0]
    }


def share(arm: Arm, family: str) -> float:
    """Percent of right answers."""
    records = [record for record in arm.answers.values() if record.family == family]
    return 100 * sum(record.is_right for record in records) / len(records)


def test_a_kept_run_has_the_answers_and_curves_of_its_finished_stages(script: ModuleType, tmp_path: Path) -> None:
    for name, status in (("sft", "finished"), ("rl", "training")):
        Progress("", status).save(tmp_path / name)
        write_answers(tmp_path / name, record("read", 0), record("find", 1, right=False))
        write_answers(tmp_path / name / "without_tools", record("faded", 0))
        (tmp_path / name / "metrics.csv").write_text("step,claims/paid,loss\n0,0.5,2\n")
    script.keep(tmp_path, tmp_path / "kept" / "seed_0.json.xz")
    (name,), (kept,) = zip(*script.read_kept(tmp_path / "kept" / "seed_0.json.xz").items(), strict=True)
    assert name == "sft"
    assert [(answer.family, answer.is_right) for answer in kept.answers.values()] == [("read", True), ("find", False)]
    assert list(kept.alone) == ["faded-0-test-0"]
    assert kept.curves == {"claims/paid": [(0.0, 0.5)]}
    assert not any(answer.turns for answer in kept.answers.values())


def write_answers(folder: Path, *records: AnswerRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers_0.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in records))
