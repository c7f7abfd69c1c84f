"""Orientations form a group, and frames map pixels to their true positions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox import ORIENTATIONS, Affine, compose, inverse, inverse_transform, orient, orientation_frame

COORDINATES = st.floats(-50, 50)


def numbered(width: int, height: int) -> Image.Image:
    """Every pixel holds its own x, y."""
    ys, xs = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([xs, ys, 0 * xs], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(("first", "then"), itertools.product(ORIENTATIONS, repeat=2))
def test_composition_is_one_after_the_other(first: str, then: str) -> None:
    image = numbered(5, 3)
    assert orient(orient(image, first), then).tobytes() == orient(image, compose(first, then)).tobytes()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_inverse_and_frame(orientation: str) -> None:
    image = numbered(5, 3)
    turned = orient(image, orientation)
    assert orient(turned, inverse(orientation)).tobytes() == image.tobytes()
    frame = orientation_frame(orientation, image.size)
    for x, y in itertools.product(range(turned.width), range(turned.height)):
        assert frame.point(x + 0.5, y + 0.5) == tuple(value + 0.5 for value in turned.getpixel((x, y))[:2])


def test_inverse_transform_by_hand() -> None:
    assert inverse_transform("rotate_90") == "rotate_270"
    assert inverse_transform("flip_vertical") == "flip_vertical"
    assert inverse_transform("crop") == "crop"


@given(st.lists(COORDINATES, min_size=12, max_size=12), COORDINATES, COORDINATES)
def test_frames_compose(values: list[float], x: float, y: float) -> None:
    inner, outer = Affine(*values[:6]), Affine(*values[6:])
    assert inner.then(outer).point(x, y) == pytest.approx(outer.point(*inner.point(x, y)), rel=1e-6, abs=1e-6)


@given(st.sampled_from(ORIENTATIONS), st.integers(1, 50), st.integers(1, 50), COORDINATES, COORDINATES)
def test_inverse_frame_leads_back(orientation: str, width: int, height: int, x: float, y: float) -> None:
    frame = orientation_frame(orientation, (width, height))
    assert frame.inverse().point(*frame.point(x, y)) == pytest.approx((x, y))


def test_singular_frame_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="invertible"):
        Affine(a=0, e=0).inverse()


def test_box_of_a_turn_by_hand() -> None:
    frame = orientation_frame("rotate_90", (10, 4))
    assert frame.box((0, 0, 2, 3)) == (7, 0, 10, 2)
