"""Transforms of a sample can be undone, and its box keeps its content."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.orientation import restore_sample, transform_sample, turn_box
from cv_lightning.errors import DataError
from cv_lightning.types import TRANSFORMS, Box, Sample
from sandbox import inverse

TURNS = [name for name in TRANSFORMS if name != "crop"]

turns = st.lists(st.sampled_from(TURNS), max_size=4)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    width, height = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (float(x1), float(y1), float(draw(st.integers(x1 + 1, width))), float(draw(st.integers(y1 + 1, height))))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = (Image.fromarray(pixels), Image.new("RGB", (5, 7), "red"))
    return Sample("a", "?", images, "x", box=draw(st.sampled_from([box, None])))


def whole(box: Box | None) -> tuple[int, int, int, int]:
    assert box is not None
    assert all(edge == int(edge) for edge in box)
    return int(box[0]), int(box[1]), int(box[2]), int(box[3])


@given(samples(), turns)
def test_restoring_undoes_everything(sample: Sample, names: list[str]) -> None:
    turned = transform_sample(sample, names)
    assert turned.transforms == tuple(names)
    restored = restore_sample(turned)
    assert restored.images[0].tobytes() == sample.images[0].tobytes()
    assert (restored.images[0].size, restored.box, restored.transforms) == (sample.images[0].size, sample.box, ())
    assert restored.images[1] is turned.images[1] is sample.images[1]


@given(samples(), turns)
def test_a_box_keeps_its_content(sample: Sample, names: list[str]) -> None:
    if sample.box is None:
        assert transform_sample(sample, names).box is None
        return
    turned = transform_sample(sample, names)
    inside = turned.images[0].crop(whole(turned.box))
    expected = sample.images[0].crop(whole(sample.box))
    for name in names:
        expected = transform_sample(Sample("b", "?", (expected,), "x"), [name]).images[0]
    assert inside.size == expected.size
    assert inside.tobytes() == expected.tobytes()


@given(samples(), st.sampled_from(TURNS))
def test_a_transform_and_its_inverse_are_nothing(sample: Sample, name: str) -> None:
    there_and_back = transform_sample(transform_sample(sample, [name]), [inverse(name)])
    assert there_and_back.images[0].tobytes() == sample.images[0].tobytes()
    assert there_and_back.box == sample.box


def test_a_quarter_turn_by_hand() -> None:
    # A counter-clockwise turn moves the top right corner of a 4 x 2 image to the top left of a 2 x 4 image.
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[0, 3] = 255
    turned = transform_sample(Sample("a", "?", (Image.fromarray(pixels),), "x", box=(3, 0, 4, 1)), ["rotate_90"])
    assert np.asarray(turned.images[0])[0, 0].tolist() == [255, 255, 255]
    assert turned.box == (0, 0, 1, 1)
    assert turn_box((3, 0, 4, 1), "flip_horizontal", (4, 2)) == (0, 0, 1, 1)
    assert turn_box((3, 0, 4, 1), "rotate_270", (4, 2)) == (1, 3, 2, 4)


def test_a_crop_stays_through_a_restoration() -> None:
    sample = Sample("a", "?", (Image.new("RGB", (6, 4)),), "x", ("crop", "rotate_90"), (1, 1, 2, 3))
    restored = restore_sample(sample)
    assert restored.transforms == ("crop",)
    assert restored.images[0].size == (4, 6)
    assert restored.box == reduce(lambda box, name: turn_box(box, name, (6, 4)), ["rotate_270"], sample.box)


@pytest.mark.parametrize("name", ["rotate_45", "upside_down", "", "ROTATE_90", "transpose"])
def test_an_unknown_transform_is_named_with_the_valid_ones(name: str) -> None:
    sample = Sample("row-7", "?", (Image.new("RGB", (6, 4)),), "x")
    with pytest.raises(DataError, match=r"row-7.*transforms: expected one of.*rotate_90, rotate_180.*crop") as caught:
        transform_sample(sample, [name])
    assert repr(name) in str(caught.value)


def test_a_crop_cannot_be_done_to_an_image() -> None:
    with pytest.raises(DataError, match="'crop' cannot be applied"):
        transform_sample(Sample("a", "?", (Image.new("RGB", (6, 4)),), "x"), ["crop"])
