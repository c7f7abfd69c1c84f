"""The published rows of TIR-Bench."""

from __future__ import annotations

import pytest

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.grading.benchmarks import grade
from tests.cv_lightning.data.sources.published_rows import TIRBENCH, Write, png


def test_tirbench(write: Write) -> None:
    for row in TIRBENCH:
        for name in (row["image_1"], row["image_2"]):
            if name is not None:
                write(str(name), png())
    path = write("TIR-Bench.json", TIRBENCH)
    assert Rows(path).format.name == "tirbench"
    source = FileSource(test=path, strict=True)
    samples = [source.sample("test", index) for index in range(5)]
    assert [sample.id for sample in samples] == ["0", "1", "2", "3", "4"]
    assert [len(sample.images) for sample in samples] == [1, 2, 1, 1, 1]
    assert [sample.family for sample in samples] == ["instrument", "spot_difference", "jigsaw", "ocr", "maze"]
    assert [sample.answer for sample in samples] == ["2.5", "[2, 5, 9]", "3, 1, 4, 2", "mobi", "B"]
    replies = ["2.50", "5 and 2", "**3, 1, 2, 4**", "It says mobi.", "(B)"]
    scores = [grade(sample, reply).score for sample, reply in zip(samples, replies, strict=True)]
    assert scores == pytest.approx([1, 2 / 3, 1 / 2, 1, 1])
