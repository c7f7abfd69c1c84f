"""Sequences become tensors without losing a token; equal images are found by content."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning import types
from cv_lightning.types import Sample, TokenSequence, Trajectory, ViewedImage
from modules.policy.token_batch import collate, distinct_images, image_bytes
from sandbox.lanes.tensor.images import TensorImage
from tests.modules.helpers import noise


def sequence(ids: list[int], is_trained: list[bool]) -> TokenSequence:
    tokens = TokenSequence()
    for token_id, trained in zip(ids, is_trained, strict=True):
        tokens.append([token_id], is_trained=trained, logprobs=[-float(token_id)] if trained else None)
    return tokens


def test_rows_are_padded_on_the_right() -> None:
    batch = collate([sequence([1, 2, 3], [False, True, True]), sequence([4], [False])], pad_id=9)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch.is_valid_BT.tolist() == [[True, True, True], [True, False, False]]
    assert batch.is_trained_BT.tolist() == [[False, True, True], [False, False, False]]
    assert batch.logprobs_BT.tolist() == [[0.0, -2.0, -3.0], [0.0, 0.0, 0.0]]
    assert batch.input_ids_BT.dtype == torch.long


@given(st.lists(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=9), min_size=1, max_size=5))
def test_nothing_is_lost(rows: list[list[tuple[int, bool]]]) -> None:
    sequences = [sequence([token for token, _ in row], [trained for _, trained in row]) for row in rows]
    batch = collate(sequences, pad_id=99)
    assert batch.is_trained_BT.sum() == sum(sum(each.is_trained) for each in sequences)
    for row, each in enumerate(sequences):
        assert batch.input_ids_BT[row][batch.is_valid_BT[row]].tolist() == each.ids


def test_no_sequences_is_an_error() -> None:
    with pytest.raises(ValueError, match="sequences: expected at least one"):
        collate([], 0)


def test_equal_images_are_one_wherever_they_stand() -> None:
    first, second = noise(8, 6, 0), noise(8, 6, 1)
    found = distinct_images([ViewedImage(image) for image in (first, second, first.copy(), first, second.copy())])
    assert found.images_N == [first, second]
    assert found.occurrences == [0, 1, 0, 0, 1]


def test_same_bytes_of_another_shape_are_another_image() -> None:
    image = noise(8, 6)
    turned = image.copy().resize((6, 8))
    turned.frombytes(image.tobytes())
    assert image.tobytes() == turned.tobytes()
    assert distinct_images([ViewedImage(image), ViewedImage(turned)]).occurrences == [0, 1]


def test_an_image_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Image.Image] = []
    monkeypatch.setattr(types, "content_key", lambda image: hashed.append(image) or bytes(image.tobytes()))
    first, second = ViewedImage(noise(8, 6, 0)), ViewedImage(noise(8, 6, 1))
    for _ in range(3):
        assert distinct_images([first, second, first]).occurrences == [0, 1, 0]
    assert hashed == [first.image, second.image]


def test_images_of_sequences_in_reading_order() -> None:
    first, second = noise(8, 6, 0), noise(8, 6, 1)
    sequences = [
        TokenSequence([1], [False], [0.0], [*map(ViewedImage, images)])
        for images in ([second], [first, second.copy()], [])
    ]
    assert collate(sequences, 0).images.occurrences == [0, 1, 0]


def test_tensor_images_are_told_apart_where_they_are() -> None:
    pixels = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    first, equal, other = TensorImage(pixels), TensorImage(pixels.clone()), TensorImage(pixels.flip(2))
    found = distinct_images([ViewedImage(image) for image in (first, other, equal, first)])
    assert found.occurrences == [0, 1, 0, 0]
    assert not any(image.is_on_host for image in (first, equal, other))


def test_bytes_of_images_are_counted_once() -> None:
    question, result = noise(10, 6), TensorImage(torch.zeros(3, 4, 5, dtype=torch.uint8))
    viewed = [ViewedImage(image, 0, None, None) for image in (question, result)]
    trajectories = [Trajectory(Sample("0", "", (question,), ""), images=viewed) for _ in range(3)]
    assert image_bytes(trajectories) == 4 * 60 + 60
    result.tobytes()
    assert image_bytes(trajectories) == 4 * 60 + 60 + 4 * 20
