"""The published rows of CodeVision's RL data and of MVToolBench."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.errors import DataError
from tests.cv_lightning.data.sources.published_rows import CODEVISION, Write, is_image, png


def test_codevision_rl_and_mvtoolbench(write: Write) -> None:
    path = write("rl.parquet", [CODEVISION])
    assert Rows(path).format.name == "codevision"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert (sample.id, sample.question, sample.answer) == ("codevision-train-17", "What does the sign say?", "EXIT")
    assert (sample.transforms, sample.box, sample.family) == (("crop", "rotate_90"), (4.0, 5.0, 12.0, 9.0), "textvqa")
    assert sample.required_tools == {"crop", "rotate_270"}
    upright = FileSource(test=path, strict=True).sample("test", 0, ())
    assert upright.transforms == ("crop",)
    assert upright.images[0].size == (30, 40)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"transform": [], "bbox": []}, {"transforms": (), "box": None}),
        ({"transform": None, "bbox": None}, {"transforms": (), "box": None}),
        ({"bbox": [[4, 5, 12, 9]]}, {"box": (4.0, 5.0, 12.0, 9.0)}),
        ({"question": None}, {"question": "What does the sign say?"}),
    ],
)
def test_codevision_rows_without_metadata(changes: Any, expected: dict[str, Any], write: Write) -> None:
    row = CODEVISION | {"extra_info": CODEVISION["extra_info"] | changes}  # type: ignore[operator]
    sample = FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)
    assert {name: getattr(sample, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_info": {**CODEVISION["extra_info"], "transform": ["shear"]}}, "transforms: expected .*'shear'"),  # type: ignore[dict-item]
        ({"extra_info": {**CODEVISION["extra_info"], "bbox": [0, 0, 50, 9]}}, "box: expected .* <= 40 .* <= 30"),  # type: ignore[dict-item]
        ({"reward_model": {"ground_truth": ""}, "extra_info": {"answer": "", "question": "?"}}, "has no answer"),
        ({"images": []}, "images: expected at least 1.*got 0"),
        ({"images": [{"bytes": b"no image", "path": None}]}, "cannot be read"),
        ({"images": [{"bytes": png()[:300], "path": None}]}, "truncated"),
        ({"images": [{"bytes": None, "path": "gone.png"}]}, "gone.png does not exist"),
    ],
)
def test_codevision_faults_name_the_row(changes: Any, words: str, write: Write) -> None:
    path = write("rl.parquet", [CODEVISION | changes])
    with pytest.raises(DataError, match=rf"rl\.parquet, row 0.*{words}"):
        FileSource(test=path, strict=True).sample("test", 0)


def test_verl_rows_without_the_metadata_of_the_paper(write: Write) -> None:
    row = {
        "data_source": "geo3k",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "<image>Find x."}],
        "images": [{"bytes": png(), "path": None}],
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "extra_info": {"split": "train", "index": 3},
    }
    text = {name: value for name, value in row.items() if name not in ("images", "extra_info")}
    text["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]
    first = FileSource(test=write("a.parquet", [row]), strict=True).sample("test", 0)
    assert (first.id, first.question, first.answer, first.transforms) == ("geo3k-train-3", "Find x.", "4", ())
    second = FileSource(test=write("b.parquet", [text]), strict=True).sample("test", 0)
    assert (second.question, second.images, second.answer, second.family) == ("What is 2 + 2?", (), "4", "geo3k")
