"""The published rows of VTC-Bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.grading.benchmarks import grade
from tests.cv_lightning.data.sources.published_rows import VTCBENCH, Write, is_image, png


@pytest.mark.parametrize("more", [{}, {"model_tools_gt": '"[""Crop"", “Zoom in”]"'}])
def test_vtcbench(write: Write, tmp_path: Path, more: dict[str, str]) -> None:
    rows = [row | more for row in VTCBENCH]
    for row in rows:
        write(row["image"], png())
    path = write("VTC-Bench.tsv", rows)
    Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b"\r\n"))  # the authors' file has CRLF
    assert Rows(path).format.name == "vtcbench"
    source = FileSource(test=path, strict=True)
    free, choice = (source.sample("test", index) for index in range(2))
    assert is_image(free)
    assert (free.id, free.family, free.question) == ("attention_focusing_1", "attention", VTCBENCH[0]["question"])
    assert (free.answer, free.rule, choice.rule) == ("光陽", "match", "choice")
    assert choice.question == "What is the proportion for Europe?\n(A) 23\n(B) 21\n(C) 27\n(D) 25"
    assert [grade(choice, answer).score for answer in ("D", "25", "It is D.", "A")] == [1, 1, 1, 0]
    assert [grade(free, answer).score for answer in ("光陽", "光")] == [1, 0]
