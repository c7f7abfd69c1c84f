"""The published rows of HRBench."""

from __future__ import annotations

import pytest

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.errors import DataError
from tests.cv_lightning.data.sources.published_rows import Write, is_image, png, text64

HRBENCH = {
    "index": 5,
    "question": "What is on the roof?",
    "answer": "C",
    "category": "single",
    "A": "a cat",
    "B": "a dog",
    "C": "a bird",
    "D": "nothing",
    "cycle_category": "single",
    "image": text64(png()),
}


@pytest.mark.parametrize("name", ["hr_bench_4k.tsv", "hr_bench_8k.parquet"])
def test_hrbench(name: str, write: Write) -> None:
    path = write(name, [HRBENCH])
    assert Rows(path).format.name == "hrbench"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert sample.question == "What is on the roof?\n(A) a cat\n(B) a dog\n(C) a bird\n(D) nothing"
    assert (sample.id, sample.answer, sample.alternatives, sample.rule) == ("5", "C", ("a bird",), "choice")
    assert sample.family == "single"


def test_multiple_choice_without_images_alone_and_beside_others(write: Write) -> None:
    text_only = {name: value for name, value in HRBENCH.items() if name != "image"}
    for rows in ([HRBENCH, HRBENCH | {"image": ""}], [text_only, text_only]):
        path = write("mcq.tsv", rows)
        assert Rows(path).format.name == "hrbench"
        sample = FileSource(test=path, strict=True).sample("test", 1)
        assert (sample.images, sample.answer) == ((), "C")
        assert sample.question.endswith("(C) a bird\n(D) nothing")


def test_hrbench_images_that_are_no_base64_name_the_row(write: Write) -> None:
    path = write("hr.tsv", [HRBENCH, HRBENCH | {"image": "this is no base64!"}])
    with pytest.raises(DataError, match=r"hr\.tsv, row 1: the image is not base64"):
        FileSource(test=path, strict=True).sample("test", 1)


def test_a_multiple_choice_table_of_vlmevalkit(write: Write) -> None:
    rows = [
        {"index": "0", "image": text64(png(1)), "question": "Which?", "A": "cat", "B": "dog", "C": "", "answer": "B"},
        {"index": "1000000", "image": "0", "question": "Which?", "A": "dog", "B": "cat", "C": "", "answer": "A"},
        {
            "index": "2",
            "image": str([text64(png(2)), text64(png(3))]),
            "question": "<image> or <image>?",
            "A": "first",
            "B": "second",
            "C": "both",
            "answer": "C",
        },
    ]
    source = FileSource(test=write("bench.tsv", rows), strict=True)
    first, again, both = (source.sample("test", index) for index in range(3))
    assert (first.question, first.answer, first.alternatives, first.rule) == (
        "Which?\n(A) cat\n(B) dog",
        "B",
        ("dog",),
        "choice",
    )
    assert is_image(first, 1)
    assert is_image(again, 1), "the cell names the row that holds the image"
    assert again.alternatives == ("dog",)
    assert is_image(both, 2, 0)
    assert is_image(both, 3, 1)
    assert both.parts == (both.images[0], " or ", both.images[1], "?\n(A) first\n(B) second\n(C) both")
