"""Places of images between words, and values that grow with a conversation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.types import IMAGE, TRANSFORMS, Sample, TokenSequence, ViewedImage, interleave
from sandbox import inverse_transform

PICTURES = [Image.new("RGB", (2 + place, 3)) for place in range(4)]


@given(st.lists(st.sampled_from([IMAGE, "a", " ", "<im", "age>"]), max_size=9), st.integers(0, 4))
def test_every_image_is_shown_once_in_order_and_no_word_is_lost(parts: list[str], n_images: int) -> None:
    text = "".join(parts)
    shown = interleave(text, PICTURES[:n_images])
    assert [part for part in shown if not isinstance(part, str)] == PICTURES[:n_images]
    words = "".join(part for part in shown if isinstance(part, str))
    assert words == text.replace(IMAGE, "", n_images)
    assert "" not in shown


def test_images_without_a_place_come_first_and_places_without_an_image_are_words() -> None:
    first, second = PICTURES[:2]
    assert interleave("Is <image> red?", [first, second]) == (first, "Is ", second, " red?")
    assert interleave("Is <image> or <image>?", [first]) == ("Is ", first, " or <image>?")
    assert interleave("", [first]) == (first,)
    assert interleave("Well?", []) == ("Well?",)


@given(st.lists(st.sampled_from(TRANSFORMS), max_size=3))
def test_required_tools_undo_what_was_done(transforms: list[str]) -> None:
    sample = Sample("a", "?", (), "", transforms=tuple(transforms))
    assert sample.required_tools == {inverse_transform(name) for name in transforms}
    assert ("crop" in sample.required_tools) == ("crop" in transforms)


def test_equal_pixels_are_one_image_whatever_their_place() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    one, other = ViewedImage(image), ViewedImage(image.copy(), root=1, turn=3)
    assert one.key == other.key
    assert one.key != ViewedImage(image.rotate(90)).key


def test_tokens_of_one_author_are_appended_with_what_was_sampled() -> None:
    tokens = TokenSequence()
    tokens.append([1, 2], is_trained=False)
    tokens.append([3], is_trained=True, logprobs=[-0.5])
    assert (tokens.ids, tokens.is_trained, tokens.logprobs) == ([1, 2, 3], [False, False, True], [0.0, 0.0, -0.5])
    with pytest.raises(ValueError, match="logprobs: expected one per token, got 1 for 2"):
        tokens.append([4, 5], is_trained=True, logprobs=[-1.0])
    assert tokens.ids == [1, 2, 3], "nothing is appended in part"
