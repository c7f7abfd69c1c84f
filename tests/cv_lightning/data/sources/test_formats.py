"""Common parts of all formats: data URIs, and images between words."""

from __future__ import annotations

import base64

import pytest

from cv_lightning.data.sources import FORMATS, FileSource, Rows
from cv_lightning.errors import DataError
from tests.cv_lightning.data.sources.published_rows import CODEVISION, TIRBENCH, VTCBENCH, Write, is_image, png


def test_places_between_words_are_kept_and_leading_ones_need_none(write: Write) -> None:
    extra = CODEVISION["extra_info"] | {"question": "<image> is Monday, <image> is Friday. Which is wet?"}  # type: ignore[operator]
    row = CODEVISION | {"extra_info": extra, "images": [{"bytes": png(n), "path": None} for n in (1, 2)]}
    row["prompt"] = [{"role": "user", "content": "<image>\n<image>\nWhich is wet?"}]
    sample = FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)
    assert sample.parts == (sample.images[0], " is Monday, ", sample.images[1], " is Friday. Which is wet?")
    assert is_image(sample, 1, 0)
    assert is_image(sample, 2, 1)
    row = CODEVISION | {"extra_info": CODEVISION["extra_info"] | {"question": "<image>\nWhat?"}}  # type: ignore[operator]
    assert FileSource(test=write("one.parquet", [row]), strict=True).sample("test", 0).question == "What?"


def test_more_places_than_images_are_a_fault(write: Write) -> None:
    row = CODEVISION | {"prompt": [{"role": "user", "content": "<image> or <image>?"}]}
    with pytest.raises(DataError, match=r"images: expected at least 2, .*<image> in the prompt, got 1"):
        FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)


URI = "data:image/png;charset=binary;base64," + base64.encodebytes(png()).decode()


#: A row of each format; its image cell is a data URI with line breaks.
DATA_URIS = {
    "ocrbench.json": {
        "dataset_name": "d",
        "id": 1,
        "question": "?",
        "answers": ["x"],
        "type": "t",
        "image_path": URI,
    },
    "ocrbench.parquet": {"dataset": "d", "question": "?", "question_type": "t", "answer": ["x"], "image": URI},
    "chartqapro.parquet": {
        "Question": ["?"],
        "Answer": ["x"],
        "Question Type": "Factoid",
        "Year": ["NO"],
        "Paragraph": "",
        "image": URI,
    },
    "vstar.jsonl": {"image": URI, "text": "?\n(A) x\n(B) y", "label": "A", "category": "c", "question_id": 1},
    "hrbench.parquet": {"index": 0, "image": URI, "question": "?", "A": "x", "B": "y", "answer": "A"},
    "vtcbench.parquet": VTCBENCH[1] | {"image": URI},
    "tirbench.json": TIRBENCH[0] | {"image_1": URI},
    "rotbench.parquet": {"image": URI, "image_name": "a.jpg"},
    "codevision.parquet": CODEVISION | {"images": [URI]},
    "codevision_sft.json": {
        "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "<answer>x</answer>"}],
        "images": [URI],
    },
    "plain.jsonl": {"question": "?", "images": URI, "answer": "x"},
}


@pytest.mark.parametrize("name", DATA_URIS)
def test_a_data_uri_is_an_image_in_every_format(name: str, write: Write) -> None:
    path = write(name, [DATA_URIS[name]])
    assert Rows(path).format.name == name.partition(".")[0]
    assert is_image(FileSource(test=path, strict=True).sample("test", 0))


def test_every_format_has_such_a_row() -> None:
    assert {name.partition(".")[0] for name in DATA_URIS} == set(FORMATS)
