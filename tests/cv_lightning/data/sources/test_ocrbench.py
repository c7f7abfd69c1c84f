"""The published rows of OCRBench."""

from __future__ import annotations

import pytest

from cv_lightning.data.sources import FileSource, Rows
from tests.cv_lightning.data.sources.published_rows import Write, is_image, ocrbench_rows, png


@pytest.mark.parametrize("name", ocrbench_rows())
def test_ocrbench(name: str, write: Write) -> None:
    write("images/0.png", png())
    path = write(name, [ocrbench_rows()[name]])
    assert Rows(path).format.name == "ocrbench"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert (sample.question, sample.answer) == ("what is written in the image?", "CENTRE")
    assert (sample.alternatives, sample.rule) == (("centre",), "contains")
    assert sample.family == "Regular Text Recognition"


def test_ocrbench_formulas_have_a_rule_of_their_own(write: Write) -> None:
    row = ocrbench_rows()["OCRBench.json"] | {"dataset_name": "HME100k", "answers": "x ^ 2"}
    write("images/0.png", png())
    sample = FileSource(test=write("OCRBench.json", [row]), strict=True).sample("test", 0)
    assert (sample.rule, sample.answer) == ("contains_formula", "x ^ 2")
