"""Arms are read from their folders and compared on their common questions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cv_lightning.errors import DataError
from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.reports.arms import Arm, Arms, differences, read_arm, values
from cv_lightning.reports.claims import is_right
from tests.cv_lightning.reports.made_arms import N, arm, imitates, record, solves


def test_pairs_are_the_questions_that_both_were_asked() -> None:
    first, second = arm(solves), arm(imitates)
    kept = {key: answer for key, answer in second.answers.items() if not key.endswith("-0")}
    arms: Arms = {0: {"a": first, "b": Arm(Path(), kept)}}
    (changes,) = differences(arms, "a", "b", ("find",), is_right)
    assert len(changes) == N - 1
    assert sum(changes) == N // 2
    assert values(arms, "b", ("find",), is_right) == [[float(number % 2 == 0) for number in range(1, N)]]


def test_an_arm_is_read_from_its_folder(tmp_path: Path) -> None:
    def write(folder: Path, *records: AnswerRecord) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answers_0.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in records))

    with pytest.raises(DataError, match=r"no test answers"):
        read_arm(tmp_path)
    write(
        tmp_path, record("read", 0, policy="step 1", key="old"), record("read", 1), record("read", 0, policy="step 2")
    )
    write(tmp_path / "without_tools", record("faded", 0))
    (tmp_path / "metrics.csv").write_text("step,claims/paid\n0,0.0\n1,0.5\n")
    found = read_arm(tmp_path)
    assert [answer.policy for answer in found.answers.values()] == ["step 2"]
    assert list(found.alone) == ["faded-0-test-0"]
    assert found.curves["claims/paid"] == [(0.0, 0.0), (1.0, 0.5)]
