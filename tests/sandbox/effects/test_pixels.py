"""Colors as numbers, orientations as views, and whether images look the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.effects.pixels import OutOfBudgetError, SearchBudget, colors, numbers, oriented, same_pixels
from sandbox.geometry import ORIENTATIONS, orient


def test_numbers_and_colors_are_each_other_undone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (colors(numbers(pixels)) == pixels).all()
    four = np.dstack([pixels, np.full((5, 7), 9, np.uint8)])
    assert (colors(numbers(four)) == pixels).all()
    assert np.shares_memory(numbers(four), four)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_oriented_view_is_pillows_image(orientation: str) -> None:
    image = noise(7, 5)
    expected = np.asarray(orient(image, orientation))
    assert (oriented(np.asarray(image), orientation) == expected).all()
    assert (oriented(np.asarray(image)[..., 0], orientation) == expected[..., 0]).all()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2), st.data())
def test_one_value_makes_two_images_differ(width: int, height: int, channel: int, data: st.DataObject) -> None:
    image = noise(width, height, seed=width)
    pixels = np.array(image)
    assert same_pixels(image, Image.fromarray(pixels))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    pixels[y, x, channel] ^= 1
    assert not same_pixels(image, Image.fromarray(pixels))
    assert not same_pixels(Image.fromarray(pixels), image)


def test_the_mode_does_not_count_and_the_size_does() -> None:
    gray = noise(6, 4).convert("L")
    assert same_pixels(gray, gray.convert("RGB"))
    assert not same_pixels(gray, gray.resize((4, 6)))
    assert not same_pixels(gray, None)
    assert same_pixels(Image.new("RGB", (0, 3)), Image.new("RGB", (0, 3)))


def test_a_budget_is_spent_once() -> None:
    budget = SearchBudget(10)
    budget.spend(10)
    with pytest.raises(OutOfBudgetError):
        budget.spend(1)
