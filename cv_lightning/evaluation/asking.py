"""Asks a policy the questions that its log does not answer yet; grades earlier answers again if grading changed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cv_lightning.evaluation.answer_log import AnswerLog, AnswerRecord, grading_key, make_record, of_keys, record_key
from cv_lightning.evaluation.questions import EvaluationItem
from cv_lightning.grading.benchmarks import Grade, grade
from cv_lightning.grading.judge import AnswerJudge
from cv_lightning.solver import Solver
from cv_lightning.types import Sample

#: Number of simultaneous requests to a judge.
_JUDGED_AT_ONCE = 16


class Asker:
    """One policy and its answer log.

    Args:
        solver: The policy.
        folder: Folder of the log, which may contain earlier answers.
        rank: Rank of this process.
        judge: Judge for answers that the rules do not accept.

    Attributes:
        keys: Record keys of the questions of this run, in order.
        n_asked: Number of questions that had no answer yet.
    """

    def __init__(self, solver: Solver, folder: Path, rank: int = 0, judge: AnswerJudge | None = None) -> None:
        self.solver = solver
        self.fingerprint = solver.fingerprint()
        self.log = AnswerLog(folder, rank)
        self.keys: list[str] = []
        self.n_asked = 0
        self._judge = judge

    def ask(self, batch: Sequence[EvaluationItem]) -> None:
        """Log an answer to every item; items that are already in the log are not asked again."""
        keys = [record_key(item.base, item.condition.label, self.fingerprint) for item in batch]
        items = dict(zip(keys, batch, strict=True))
        known = {key: item for key, item in items.items() if key in self.log.records}
        self.log.append(self._answers({key: item for key, item in items.items() if key not in known}))
        self.log.append(self._graded_again(known))
        self.keys += keys

    def records(self, keys: Sequence[str], is_shared: bool) -> list[AnswerRecord]:
        """The answers to `keys`; if other processes share the log, including theirs."""
        return of_keys(self.log.read_all() if is_shared else self.log.records, keys)

    def _answers(self, items: dict[str, EvaluationItem]) -> list[AnswerRecord]:
        if not items:
            return []
        self.n_asked += len(items)
        solved = self.solver.solve([item.sample() for item in items.values()])
        pairs = zip(items.items(), solved, strict=True)
        answered = [(key, item, trajectory) for (key, item), trajectory in pairs if trajectory is not None]
        grades = self._grades([(item.base, trajectory.answer) for _, item, trajectory in answered])
        return [
            make_record(
                key, item.condition.label, self.fingerprint, trajectory, of_answer, self._grading_key(item.base)
            )
            for (key, item, trajectory), of_answer in zip(answered, grades, strict=True)
        ]

    def _graded_again(self, items: dict[str, EvaluationItem]) -> list[AnswerRecord]:
        """Earlier answers whose rule, truth or judge changed, or whose judge failed."""
        changed = []
        for key, item in items.items():
            record = self.log.records[key]
            if record.graded_for != self._grading_key(item.base) or record.score is None:
                changed.append((record, item.base))
        grades = self._grades([(base, record.answer) for record, base in changed])
        return [
            replace(
                record,
                score=of_answer.score,
                graded_by=of_answer.by,
                rule=of_answer.rule,
                graded_for=self._grading_key(base),
                truth=base.answer,
            )
            for (record, base), of_answer in zip(changed, grades, strict=True)
        ]

    def _grades(self, answers: Sequence[tuple[Sample, str | None]]) -> list[Grade]:
        # A judge is a server, so all answers of a batch are sent to it at once.
        with ThreadPoolExecutor(max_workers=_JUDGED_AT_ONCE if self._judge is not None else 1) as pool:
            return list(pool.map(lambda pair: grade(pair[0], pair[1], self._judge), answers))

    def _grading_key(self, base: Sample) -> str:
        judge = "" if self._judge is None else f"{getattr(self._judge, 'url', '')} {getattr(self._judge, 'model', '')}"
        return grading_key(base, judge)
