"""The published rows of RotBench."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.grading.benchmarks import grade
from tests.cv_lightning.data.sources.published_rows import Write, png

ROTBENCH = [{"image": {"bytes": png(n), "path": None}, "image_name": f"{n}.jpg"} for n in range(2)]


def test_rotbench_asks_each_image_in_four_rotations(write: Write) -> None:
    path = write("large-00000-of-00001.parquet", ROTBENCH)
    source = FileSource(test=path, strict=True)
    assert (Rows(path).format.name, source.size("test")) == ("rotbench", 8)
    letters = set()
    for index in range(8):
        sample, degrees = source.sample("test", index), 90 * (index % 4)
        upright = Image.fromarray(np.random.default_rng(index // 4).integers(0, 256, (30, 40, 3), dtype=np.uint8))
        assert np.array_equal(np.asarray(sample.images[0]), np.asarray(upright.rotate(degrees, expand=True)))
        assert (sample.id, sample.family) == (f"{index // 4}.jpg-{degrees}", f"rotated by {degrees}")
        assert sample.transforms == ((f"rotate_{degrees}",) if degrees else ())
        options = dict(re.findall(r"\(([A-D])\) (\d+)", sample.question))
        assert (sorted(options), sorted(map(int, options.values()))) == (["A", "B", "C", "D"], [0, 90, 180, 270])
        assert options[sample.answer] == str(degrees)
        answers = [sample.answer, f"The answer is {sample.answer}.", f"{degrees}", f"**{degrees}°**"]
        assert [grade(sample, answer).score for answer in answers] == [1.0] * 4
        assert grade(sample, str((degrees + 90) % 360)).score == 0.0
        letters.add(sample.answer)
    assert len(letters) > 1, "the right letter is not always the same"


def test_rotbench_is_asked_as_recorded(write: Write) -> None:
    path = write("small.parquet", ROTBENCH)
    with pytest.raises(ConfigError, match=r"cannot be turned.*orientations to \[recorded\]"):
        FileSource(test=path).sample("test", 0, ())
    with pytest.raises(ConfigError, match="leave out weights"):
        FileSource(test=path, weights={"none": 1.0})


def test_a_bad_image_of_rotbench_is_named(write: Write) -> None:
    rows = [{"image": {"bytes": b"no image", "path": None}, "image_name": "a.jpg"}]
    with pytest.raises(DataError, match=r"row 0, rotation 90: image .* cannot be read"):
        FileSource(test=write("bad.parquet", rows), strict=True).sample("test", 1)
