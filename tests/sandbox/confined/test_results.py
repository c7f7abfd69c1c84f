"""Results of snippets, as RGB images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.confined.results import ResultError, to_image


def pixels_of(value: Any) -> Any:
    image = to_image(value, "result")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 7, 255], np.uint8, [0, 7, 255]),
        ([-5, 7, 300], np.int32, [0, 7, 255]),
        ([0, 256, 65535], np.uint16, [0, 255, 255]),
        ([False, True, True], np.bool_, [0, 255, 255]),
        ([0.0, 0.5, 1.0], np.float64, [0, 128, 255]),  # 127.5 is rounded to even
        ([0.0, 0.5, 1.5], np.float64, [0, 0, 2]),  # above 1: no scale
        ([-0.5, 0.5, 1.0], np.float32, [0, 0, 1]),  # below 0: no scale
        ([0.0, 99.6, 400.0], np.float32, [0, 100, 255]),
    ],
)
def test_numbers_of_every_kind_by_hand(values: list[Any], dtype: Any, expected: list[int]) -> None:
    assert pixels_of(np.array([values], dtype))[0].tolist() == [[level] * 3 for level in expected]


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 1, 3, 4]), st.integers(0, 99))
def test_shapes(height: int, width: int, channels: int | None, seed: int) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    shown = pixels_of(array)
    if channels in (3, 4):
        assert (shown == array[..., :3]).all()
    else:
        assert (shown == array.reshape(height, width, 1)).all()
    assert (pixels_of(np.asfortranarray(array)) == shown).all()
    assert (pixels_of(array[::-1]) == shown[::-1]).all()


def test_pillow_images_of_every_depth() -> None:
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    assert to_image(rgb, "result") is rgb
    assert pixels_of(Image.new("LA", (1, 1), (9, 0))).tolist() == [[[9, 9, 9]]]
    deep = Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16))
    assert pixels_of(deep)[0, :, 0].tolist() == [0x12, 0xFF]
    assert pixels_of(Image.new("I", (1, 1), 70_000)).tolist() == [[[255] * 3]]
    assert pixels_of(Image.new("F", (1, 1), 0.2)).tolist() == [[[51] * 3]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "`out` is of type NoneType"),
        ([[1, 2], [3, 4]], "`out` is of type list"),
        (np.array([["a"]]), "array of <U1"),
        (np.array([[1j]]), "array of complex128"),
        (np.zeros(3, np.uint8), r"shape \(3,\)"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"shape \(1, 2, 2, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 4)), "no pixels: its size is 0x4"),
        (np.array([[np.nan, 1.0]]), "not finite"),
        (np.array([[np.inf, 1.0]]), "not finite"),
    ],
)
def test_what_is_no_image_is_named(value: Any, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        to_image(value, "out")
