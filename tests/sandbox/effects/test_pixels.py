"""Colours as numbers, and back."""

from __future__ import annotations

import numpy as np

from sandbox.effects.pixels import colours, numbers


def test_numbers_and_colours_are_each_other_undone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (colours(numbers(pixels)) == pixels).all()
    four = np.dstack([pixels, np.full((5, 7), 9, np.uint8)])
    assert (colours(numbers(four)) == pixels).all()
    assert np.shares_memory(numbers(four), four)
