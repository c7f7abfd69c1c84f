"""Rows of a question, an answer and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cv_lightning.data.sources import FileSource
from cv_lightning.errors import DataError
from tests.cv_lightning.data.sources.published_rows import Write, is_image, png, text64


@pytest.mark.parametrize(
    "cell",
    [
        lambda data: "data:image/png;base64," + text64(data),
        lambda data: text64(data),
        lambda data: "\n".join(text64(data)[start : start + 76] for start in range(0, len(text64(data)), 76)),
        lambda data: {"bytes": None, "path": None, "url": "data:image/png;base64," + text64(data)},
        lambda data: {"image_url": {"url": "data:image/png;base64," + text64(data)}},
        lambda data: "a.png",
    ],
    ids=["data URI", "base64", "wrapped base64", "url", "image_url", "path"],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_image_cells_of_plain_rows(cell: Callable[[bytes], Any], is_list: bool, write: Write) -> None:
    write("a.png", png())
    value = cell(png())
    row = {"question": "What?", "images": [value] if is_list else value, "answer": "x"}
    assert is_image(FileSource(test=write("rows.jsonl", [row]), strict=True).sample("test", 0))


def test_rows_with_and_without_images_beside_each_other(write: Write) -> None:
    write("a.png", png())
    rows = [
        {"question": "What?", "images": ["a.png"], "answer": "x", "transforms": ["rotate_90"]},
        {"question": "2 + 2?", "images": None, "answer": "4"},
        {"question": "2 + 3?", "answer": "5"},
    ]
    source = FileSource(test=write("rows.jsonl", rows), strict=True)
    turned = [source.sample("test", index, ("rotate_180",)) for index in range(3)]
    assert [len(sample.images) for sample in turned] == [1, 0, 0]
    assert [sample.transforms for sample in turned] == [("rotate_180",), (), ()]
    assert [sample.parts for sample in turned[1:]] == [("2 + 2?",), ("2 + 3?",)]


@pytest.mark.parametrize(
    ("cell", "words"),
    [("7", "not base64 text"), ("['a", "list of images cannot be read"), ("1", "not base64 text")],
)
def test_a_cell_that_names_no_image_says_so(cell: str, words: str, write: Write) -> None:
    row = {"index": "1", "image": cell, "question": "Which?", "A": "cat", "B": "dog", "answer": "B"}
    with pytest.raises(DataError, match=words):
        FileSource(test=write("bench.tsv", [row]), strict=True).sample("test", 0)
