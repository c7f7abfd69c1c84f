"""Recorded answers are never lost, never requested again, and never mistaken for other answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.errors import CVLightningError
from cv_lightning.evaluation.answer_log import AnswerLog, AnswerRecord, grading_key, make_record, of_keys, record_key
from cv_lightning.grading.benchmarks import Grade
from cv_lightning.types import Sample, Trajectory
from sandbox import orient

Play = Callable[..., Trajectory]

IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8))
SAMPLE = Sample("s", "What?", (IMAGE,), "x", box=(10.0, 10.0, 30.0, 20.0), source="rows.jsonl, line 1")


def record(number: int = 0, **changes: Any) -> AnswerRecord:
    trajectory = Trajectory(SAMPLE)
    made = make_record(f"key{number}", "upright", "policy", trajectory, Grade(1.0))
    return replace(made, **changes)


def test_a_key_depends_on_everything_that_an_answer_depends_on() -> None:
    darker = Image.fromarray(np.asarray(IMAGE) // 2)
    samples = [
        SAMPLE,
        replace(SAMPLE, id="t"),
        replace(SAMPLE, question="Who?"),
        replace(SAMPLE, box=None),
        replace(SAMPLE, transforms=("crop",)),
        replace(SAMPLE, images=(darker,)),
        replace(SAMPLE, images=(IMAGE, IMAGE)),
    ]
    keys = [record_key(sample, "upright", "policy") for sample in samples]
    keys += [record_key(SAMPLE, "rot90", "policy"), record_key(SAMPLE, "upright", "other")]
    assert len(set(keys)) == len(keys)
    assert record_key(replace(SAMPLE, source="moved"), "upright", "policy") == keys[0]


def test_what_only_grades_depend_on_asks_nothing_again() -> None:
    samples = [
        SAMPLE,
        replace(SAMPLE, answer="y"),
        replace(SAMPLE, alternatives=("y",)),
        replace(SAMPLE, rule="anls"),
    ]
    assert len({record_key(sample, "upright", "policy") for sample in samples}) == 1
    assert len({grading_key(sample, judge) for sample in samples for judge in ("", "http://a b")}) == 8
    assert grading_key(replace(SAMPLE, id="t", question="?"), "") == grading_key(SAMPLE, "")


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path)
    log.append([record(0, answer="\ud800 ü \n"), record(1, score=None)])
    log.append([record(2)])
    again = AnswerLog(tmp_path)
    assert again.records == log.records
    assert of_keys(again.records, ["key2", "gone", "key0", "key2"]) == [log.records["key2"], log.records["key0"]]


def test_half_a_line_is_left_out_and_what_follows_stands_alone(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path)
    log.append([record(0), record(1)])
    log.path.write_bytes(log.path.read_bytes()[:-30])
    again = AnswerLog(tmp_path)
    assert list(again.records) == ["key0"]
    again.append([record(2)])
    assert list(AnswerLog(tmp_path).records) == ["key0", "key2"]


def test_lines_of_another_version_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "answers_0.jsonl").write_text('{"key": "old"}\n[]\nnonsense\n', encoding="utf-8")
    assert AnswerLog(tmp_path).records == {}


def test_ranks_read_what_the_others_wrote(tmp_path: Path) -> None:
    first, second = AnswerLog(tmp_path, 0), AnswerLog(tmp_path, 1)
    first.append([record(0)])
    second.append([record(1)])
    assert set(first.read_all()) == {"key0", "key1"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_says_so_and_what_to_do(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path)
    log.append([record(0)])
    log.path = Path("/dev/full")
    with pytest.raises(CVLightningError, match=r"cannot be written \(No space left.*The 1 earlier ones are safe"):
        log.append([record(1)])
    assert list(AnswerLog(tmp_path).records) == ["key0"]


def test_a_trajectory_by_hand(play: Play, run: Any, say: Any) -> None:
    turned = replace(
        SAMPLE, images=(orient(IMAGE, "rotate_90"),), transforms=("crop", "rotate_90"), box=(10, 30, 20, 50)
    )
    trajectory = play(
        turned,
        run("result = image.nothing()"),
        run("result = ImageOps.grayscale(image.rotate(270, expand=True))"),
        run("result = image.crop((10, 10, 30, 20))", 1),
        say("x"),
    )
    made = make_record("k", "rot90", "p", trajectory, Grade(1.0))
    assert (made.n_calls, made.outcomes, len(made.turns)) == (3, [False, True, True], 4)
    assert [set(tools) for tools in made.tools] == [{"rotate_270", "grayscale"}, {"crop"}]
    assert made.emergent == {"grayscale"}
    assert made.is_restored
    assert (made.required, made.required_recall, made.has_exact_tools) == (["crop", "rotate_270"], 1.0, True)
    assert made.crop_iou == pytest.approx(1.0), "measured in the pixels that were asked about, not in the turned ones"


def test_needless_and_missing_tools(play: Play, run: Any, say: Any) -> None:
    needless = make_record("k", "upright", "p", play(SAMPLE, run("result = image.rotate(180)"), say("x")), Grade(1.0))
    assert (needless.required_recall, needless.has_exact_tools, needless.crop_iou) == (None, False, None)
    turned = replace(
        SAMPLE, images=(orient(IMAGE, "rotate_90"),), transforms=("crop", "rotate_90"), box=(10, 30, 20, 50)
    )
    half = make_record(
        "k", "rot90", "p", play(turned, run("result = image.rotate(270, expand=True)"), say("x")), Grade(0.0)
    )
    assert (half.required_recall, half.has_exact_tools, half.crop_iou) == (0.5, False, 0.0)
    assert make_record("k", "upright", "p", play(SAMPLE, say("x")), Grade(1.0)).has_exact_tools
