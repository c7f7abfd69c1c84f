"""A policy is asked once; a change that affects only the grade repeats only the grading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cv_lightning.evaluation.asking import Asker
from cv_lightning.evaluation.conditions import make_conditions
from cv_lightning.evaluation.questions import EvaluationItem
from cv_lightning.solver import Solver
from cv_lightning.types import Reply, Sample, StopReason, Trajectory, Turn


class Parrot(Solver):
    """Answers every sample with its word, but leaves out the samples in `silent_on`."""

    def __init__(self, word: str = "7", name: str = "parrot", silent_on: Sequence[str] = ()) -> None:
        self._word, self._name, self._silent_on = word, name, silent_on
        self.asked: list[Sample] = []

    def fingerprint(self) -> str:
        return self._name

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        self.asked += samples
        reply = Reply(answer=self._word)
        turn = Turn(f"<answer>{self._word}</answer>", reply)
        return [
            None if sample.id in self._silent_on else Trajectory(sample, [turn], stop_reason=StopReason.ANSWERED)
            for sample in samples
        ]


class Judge:
    """Gives every answer the same verdict; None means that the judge fails."""

    def __init__(self, verdict: bool | None = True, model: str = "m") -> None:
        self.verdict, self.model, self.url = verdict, model, "http://judge"
        self.n_asked = 0

    def __call__(self, *_: Any) -> bool | None:
        self.n_asked += 1
        return self.verdict


def items(*names: str, answer: str = "7", label: str = "rot90") -> list[EvaluationItem]:
    image = Image.new("RGB", (6, 4), (200, 0, 0))
    (condition,) = make_conditions([label], (), ())
    return [EvaluationItem(Sample(name, "How many?", (image,), answer), condition, 0) for name in names]


def test_a_question_is_asked_under_its_condition_once_and_in_order(tmp_path: Path) -> None:
    solver = Parrot()
    asker = Asker(solver, tmp_path)
    asker.ask(items("a", "b"))
    asker.ask(items("b", "c"))
    assert [sample.id for sample in solver.asked] == ["a", "b", "c"]
    assert {sample.images[0].size for sample in solver.asked} == {(4, 6)}, "turned as the condition says"
    assert asker.n_asked == 3
    assert [record.id for record in asker.records(asker.keys, is_shared=False)] == ["a", "b", "c"]
    assert all(record.score == 1.0 for record in asker.records(asker.keys, is_shared=False))


def test_another_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    Asker(Parrot(silent_on=["b"]), tmp_path).ask(items("a", "b"))
    solver = Parrot()
    again = Asker(solver, tmp_path)
    again.ask(items("a", "b"))
    assert [sample.id for sample in solver.asked] == ["b"], "what had no answer is asked again"
    assert [record.id for record in again.records(again.keys, is_shared=False)] == ["a", "b"]


@pytest.mark.parametrize("change", [{"name": "other"}, {}], ids=["policy", "image"])
def test_another_policy_or_image_is_another_question(tmp_path: Path, change: dict[str, Any]) -> None:
    Asker(Parrot(), tmp_path).ask(items("a"))
    (item,) = items("a")
    if not change:
        item = replace(item, base=replace(item.base, images=(Image.new("RGB", (6, 4)),)))
    solver = Parrot(**change)
    Asker(solver, tmp_path).ask([item])
    assert len(solver.asked) == 1


def test_another_truth_grades_anew_and_asks_nothing(tmp_path: Path) -> None:
    Asker(Parrot(), tmp_path).ask(items("a"))
    solver = Parrot()
    asker = Asker(solver, tmp_path)
    asker.ask(items("a", answer="8"))
    (record,) = asker.records(asker.keys, is_shared=False)
    assert not solver.asked
    assert (record.score, record.truth, record.answer) == (0.0, "8", "7")
    (kept,) = Asker(Parrot(), tmp_path).log.records.values()
    assert kept == record, "the log has the new grade"


def test_a_judge_that_failed_is_asked_again_and_another_judge_too(tmp_path: Path) -> None:
    failing: Any = Judge(None)
    asker = Asker(Parrot("seven"), tmp_path, judge=failing)
    asker.ask(items("a"))
    assert asker.log.records[asker.keys[0]].score is None
    for judge, n_asked in ((Judge(), 1), (Judge(), 0), (Judge(model="other"), 1)):
        as_any: Any = judge
        again = Asker(Parrot("seven"), tmp_path, judge=as_any)
        again.ask(items("a"))
        assert judge.n_asked == n_asked
        assert again.log.records[again.keys[0]].graded_by == "judge"
        assert again.log.records[again.keys[0]].score == 1.0


def test_answers_of_other_processes_are_read_if_the_log_is_shared(tmp_path: Path) -> None:
    first, second = Asker(Parrot(), tmp_path, rank=0), Asker(Parrot(), tmp_path, rank=1)
    first.ask(items("a"))
    second.ask(items("b"))
    keys = first.keys + second.keys
    assert [record.id for record in first.records(keys, is_shared=True)] == ["a", "b"]
    assert [record.id for record in first.records(keys, is_shared=False)] == ["a"]
