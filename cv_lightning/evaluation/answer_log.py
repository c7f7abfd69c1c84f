"""A log of a policy's answers, one JSON object per line, from which an interrupted evaluation resumes."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cv_lightning.errors import CVLightningError
from cv_lightning.evidence import CORE_TOOLS, call_outcomes, emergent_tools, gather_effects, is_restored
from cv_lightning.grading.benchmarks import RIGHT_FROM, Grade
from cv_lightning.types import Sample, Trajectory


@dataclass(frozen=True)
class AnswerRecord:
    """One answered question under one condition.

    Attributes:
        key: See `record_key`.
        item: The question, independent of the condition; used to pair the rows of the table.
        id: Id of the sample.
        condition: Label of the change to the image.
        policy: Fingerprint of the policy.
        family: The kind of task.
        truth: The right answer.
        answer: Answer of the policy, or None.
        score: Credit in [0, 1]; None if the judge failed.
        graded_by: "rule" or "judge".
        graded_for: See `grading_key`.
        stop_reason: Why the trajectory ended.
        turns: Turns of the policy.
        n_calls: Number of calls that parsed.
        outcomes: For each attempted call, whether it ran.
        tools: The verified operations of each call that ran.
        is_restored: Whether the last view is upright.
        required: The tools that the image requires.
        used: The tools that had an effect; if one move undoes two turns, both count.
        rule: The rule that graded the answer, and the comparison that succeeded (`Grade.rule`); "" in older logs.
        adapted: `Trajectory.adapted`; empty in older logs.
        crop_iou: Best overlap of a crop with the box, in pixels of the question's image; None if no crop is required.
    """

    key: str
    item: str
    id: str
    condition: str
    policy: str
    family: str
    truth: str
    answer: str | None
    score: float | None
    graded_by: str
    graded_for: str
    stop_reason: str | None
    turns: list[str]
    n_calls: int
    outcomes: list[bool]
    tools: list[list[str]]
    is_restored: bool
    required: list[str]
    used: list[str]
    crop_iou: float | None
    rule: str = ""
    adapted: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether the credit is high enough for the answer to count as right."""
        return self.score is not None and self.score >= RIGHT_FROM

    @property
    def emergent(self) -> frozenset[str]:
        """The tools that no task requires."""
        return emergent_tools(tool for tools in self.tools for tool in tools)

    @property
    def required_recall(self) -> float | None:
        """Share of the required tools that were used; None if no tool is required."""
        return len(set(self.required) & set(self.used)) / len(self.required) if self.required else None

    @property
    def has_exact_tools(self) -> bool:
        """Whether the used orientation and crop tools are exactly the required ones."""
        return set(self.used) & CORE_TOOLS == set(self.required) & CORE_TOOLS


def record_key(sample: Sample, condition: str, policy: str) -> str:
    """A digest of what an answer depends on: the sample's id and content, the condition, the policy's fingerprint.

    It includes the content, so a question is asked again if its image was replaced or its world has another seed.
    """
    pixels = [f"{image.size}:{zlib.crc32(image.tobytes())}" for image in sample.images]
    return _digest(sample.id, sample.question, *pixels, str(sample.transforms), str(sample.box), condition, policy)


def grading_key(sample: Sample, judge: str) -> str:
    """A digest of what a grade depends on besides the answer; if it changes, recorded answers are graded again."""
    return _digest(sample.rule, sample.answer, *sample.alternatives, judge)


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:24]


def make_record(
    key: str, condition: str, policy: str, trajectory: Trajectory, grade: Grade, graded_for: str = ""
) -> AnswerRecord:
    """Make the record of a trajectory."""
    sample, evidence = trajectory.sample, gather_effects(trajectory)
    needs_crop = "crop" in sample.required_tools and sample.box is not None
    return AnswerRecord(
        key=key,
        item=f"{sample.source}#{sample.id}",
        id=sample.id,
        condition=condition,
        policy=policy,
        family=sample.family,
        truth=sample.answer,
        answer=trajectory.answer,
        score=grade.score,
        graded_by=grade.by,
        graded_for=graded_for,
        stop_reason=trajectory.stop_reason.value if trajectory.stop_reason else None,
        turns=[turn.text for turn in trajectory.turns],
        n_calls=trajectory.n_calls,
        outcomes=call_outcomes(trajectory),
        tools=[
            list(turn.observation.tools)
            for turn in trajectory.turns
            if turn.reply.call is not None and turn.observation is not None and turn.observation.status == "ok"
        ],
        is_restored=is_restored(trajectory),
        required=sorted(evidence.required),
        used=sorted(evidence.used),
        crop_iou=evidence.best_iou if needs_crop else None,
        rule=grade.rule,
        adapted=list(trajectory.adapted),
    )


def read_answers(folder: Path) -> tuple[dict[str, AnswerRecord], int]:
    """Records of all processes by key, and the number of skipped lines: cut off, or of another version."""
    found: dict[str, AnswerRecord] = {}
    n_left_out = 0
    for path in sorted(folder.glob("answers_*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                record = _parse(line)
                if record is not None:
                    found[record.key] = record
                n_left_out += record is None and bool(line.strip())
    return found, n_left_out


class AnswerLog:
    """Writes records to the JSONL file of one process, and reads the files of all processes.

    Args:
        folder: Folder of the files `answers_<rank>.jsonl`.
        rank: Rank of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.path = folder / f"answers_{rank}.jsonl"
        self.records = self.read_all()

    def read_all(self) -> dict[str, AnswerRecord]:
        """The records of all processes by key."""
        return read_answers(self.folder)[0]

    def append(self, records: Sequence[AnswerRecord]) -> None:
        """Write records, and wait until they are on disk.

        Raises:
            CVLightningError: The records cannot be written; those of earlier calls are safe.
        """
        if not records:
            return
        text = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                _end_line(file, self.path)
                file.write(text.encode("utf-8", "surrogatepass"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CVLightningError(
                f"{self.path}: answers cannot be written ({error.strerror}). The {len(self.records)} earlier ones "
                "are safe. Make room or correct the folder, then run the same command again to continue."
            ) from error
        self.records |= {record.key: record for record in records}


def _end_line(file: Any, path: Path) -> None:
    """Terminate the partial line that a killed run may have left, so that the next record starts a new line."""
    if not file.tell():
        return
    with path.open("rb") as existing:
        existing.seek(-1, os.SEEK_END)
        if existing.read(1) != b"\n":
            file.write(b"\n")


_FIELDS = {each.name for each in fields(AnswerRecord)}


def _parse(line: bytes) -> AnswerRecord | None:
    try:
        content = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return (
        AnswerRecord(**content) if isinstance(content, dict) and set(content) | {"rule", "adapted"} == _FIELDS else None
    )


def of_keys(records: dict[str, AnswerRecord], keys: Iterable[str]) -> list[AnswerRecord]:
    """The records for those keys that have one, each record once."""
    return [records[key] for key in dict.fromkeys(keys) if key in records]
