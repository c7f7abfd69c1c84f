"""Images whose pixels are a tensor."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.lanes.tensor.images import TensorImage, stacked
from tests.sandbox import strategies
from tests.sandbox.lanes.tensor.agreement import (
    as_tensor,
    noise,
)


def test_tensor_image_is_a_pillow_image_when_asked() -> None:
    original = noise(7, 5)
    image = TensorImage(as_tensor(original, "cpu"))
    assert (image.size, image.mode, image.is_on_host) == ((7, 5), "RGB", False)
    assert image.content_key() == TensorImage(as_tensor(original, "cpu")).content_key()
    assert not image.is_on_host
    assert image.tobytes() == original.tobytes()
    assert image.is_on_host
    for made in (copy.copy(image), copy.deepcopy(image), pickle.loads(pickle.dumps(image)), image.convert("RGB")):
        assert (made.mode, made.size, made.tobytes()) == ("RGB", (7, 5), original.tobytes())
    with pytest.raises(ValueError, match=r"Expected a uint8 tensor \[3, H, W\]"):
        TensorImage(torch.zeros(3, 4, 4))


@given(strategies.images(), st.integers(0, 10**6), st.integers(1, 255))
def test_content_key_sees_every_pixel(image: Image.Image, place: int, step: int) -> None:
    pixels = as_tensor(image, "cpu")
    other = pixels.clone()
    flat = other.view(-1)
    flat[place % len(flat)] += step
    assert TensorImage(pixels).content_key() != TensorImage(other).content_key()
    if image.width != image.height:
        turned = pixels.reshape(3, image.width, image.height)
        assert TensorImage(pixels).content_key() != TensorImage(turned).content_key()


def test_content_key_of_a_part_of_a_batch() -> None:
    batch = torch.arange(3 * 3 * 5 * 7, dtype=torch.int32).to(torch.uint8).view(3, 3, 5, 7)
    for pixels in batch:
        assert TensorImage(pixels).content_key() == TensorImage(pixels.clone()).content_key()
    eights = torch.zeros(2, 3, 8, 9, dtype=torch.uint8).view(-1)[3 : 3 + 216].view(3, 8, 9)
    assert TensorImage(eights).content_key() == TensorImage(eights.clone()).content_key()


def test_neighbors_are_stacked_without_a_copy() -> None:
    batch = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert stacked(list(batch)).data_ptr() == batch.data_ptr()
    assert torch.equal(stacked([batch[1], batch[0]]), batch.flip(0))
    assert torch.equal(stacked([batch[0], batch[0]]), batch[:1].repeat(2, 1, 1, 1))
