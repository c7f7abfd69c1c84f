"""Pillow's resize, bit for bit, whatever is resized."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.lanes.tensor.resampling import resample_images, resized
from tests.sandbox.lanes.tensor.agreement import as_tensor, noise

SIDES = st.integers(1, 70)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from([1, 2, 3, 4, 5]), st.data())
def test_every_filter_and_box(
    before: tuple[int, int], after: tuple[int, int], method: int, data: st.DataObject
) -> None:
    edges = [sorted(data.draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in before]
    box = (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
    if min(box[2] - box[0], box[3] - box[1]) < 0.01:
        box = (0.0, 0.0, *map(float, before))
    image = noise(*before)
    found = resample_images(as_tensor(image, "cpu")[None], after, method, box)[0]
    assert torch.equal(found, as_tensor(image.resize(after, method, box), "cpu"))


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (5, 900)])
def test_many_taps_and_few(size: tuple[int, int]) -> None:
    image = noise(2500, 7)
    found = resample_images(as_tensor(image, "cpu")[None], size, Image.Resampling.LANCZOS)[0]
    assert torch.equal(found, as_tensor(image.resize(size, Image.Resampling.LANCZOS), "cpu"))


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
def test_nearest_picks_pillows_lines(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = noise(*before)
    found = resized(as_tensor(image, "cpu")[None], after, Image.Resampling.NEAREST)[0]
    assert torch.equal(found, as_tensor(image.resize(after, Image.Resampling.NEAREST), "cpu"))


def test_a_whole_box_is_cut_out() -> None:
    pixels = torch.from_numpy(np.arange(48, dtype=np.uint8).reshape(1, 1, 6, 8))
    assert torch.equal(resized(pixels, (3, 2), 3, (2.0, 1.0, 5.0, 3.0)), pixels[:, :, 1:3, 2:5])
