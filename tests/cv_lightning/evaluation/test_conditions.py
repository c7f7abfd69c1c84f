"""The conditions of an evaluation keep question, answer and box correct, and are the same in every run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.corruption import CORRUPTIONS
from cv_lightning.data.orientation import restore_sample
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.conditions import (
    ORIENTATION_CONDITIONS,
    RECORDED,
    Condition,
    corrupt_sample,
    make_conditions,
)
from cv_lightning.evaluation.metrics import orientation_label
from tests.cv_lightning.evaluation.answered import sample


def test_the_orientations_are_those_of_the_report() -> None:
    labels = [orientation_label(transforms) for transforms in ORIENTATION_CONDITIONS.values()]
    assert labels == list(ORIENTATION_CONDITIONS)


def test_conditions_in_the_order_of_the_table() -> None:
    conditions = make_conditions(["upright", "hflip", RECORDED], ["jpeg", "contrast"], [1, 5])
    labels = ["upright", "hflip", "recorded", "jpeg_1", "jpeg_5", "contrast_1", "contrast_5"]
    assert [condition.label for condition in conditions] == labels
    assert [condition.transforms for condition in conditions[:3]] == [(), ("flip_horizontal",), None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["rot91"],), "orientations: no orientation 'rot91'. Did you mean 'rot90'"),
        ((["upright"], ["jpg"]), "corruptions: no corruption 'jpg'. Did you mean 'jpeg'"),
        ((["upright"], ["jpeg"], [6]), "severities: expected numbers from 1 to 5, got 6"),
        (([], []), "at least one condition"),
        ((["upright", "upright"],), "none twice"),
        ((["upright"], ["jpeg"], [1, 1]), "none twice"),
    ],
)
def test_conditions_that_cannot_be_say_why(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_conditions(*arguments)


@given(st.sampled_from(sorted(CORRUPTIONS)), st.integers(1, 5), st.integers(0, 3), st.integers(0, 50))
def test_a_corruption_changes_pixels_only_and_is_seeded(name: str, severity: int, seed: int, own: int) -> None:
    before = sample(own, transforms=("crop",), box=(1.0, 2.0, 9.0, 9.0), alternatives=("y",))
    after = corrupt_sample(before, name, severity, seed)
    assert after.images[0].size == before.images[0].size
    assert after.images[0].tobytes() != before.images[0].tobytes()
    for field in ("id", "question", "answer", "alternatives", "transforms", "box", "family", "rule"):
        assert getattr(after, field) == getattr(before, field)
    assert corrupt_sample(before, name, severity, seed).images[0].tobytes() == after.images[0].tobytes()


def test_samples_and_seeds_draw_noise_of_their_own() -> None:
    flat = (Image.new("RGB", (16, 16), (128, 128, 128)),)
    noisy = [
        corrupt_sample(sample(images=flat, id=name), "gaussian_noise", 3, seed).images[0].tobytes()
        for name in ("a", "b")
        for seed in (0, 1)
    ]
    assert len(set(noisy)) == 4
    pair = corrupt_sample(sample(images=flat * 2), "gaussian_noise", 3)
    assert pair.images[0].tobytes() != pair.images[1].tobytes()


@given(st.sampled_from(sorted(ORIENTATION_CONDITIONS)), st.integers(0, 50))
def test_an_orientation_can_be_undone(label: str, own: int) -> None:
    upright = sample(own, transforms=("crop",), box=(3.0, 4.0, 20.0, 11.0))
    turned = make_conditions([label])[0].apply(upright)
    assert turned.transforms == ("crop", *ORIENTATION_CONDITIONS[label])
    restored = restore_sample(turned)
    assert (restored.box, restored.transforms) == (upright.box, upright.transforms)
    assert restored.images[0].tobytes() == upright.images[0].tobytes()
    assert restored.box is not None
    assert turned.box is not None
    inside = turned.images[0].crop(tuple(map(int, turned.box)))
    expected = sample(images=(upright.images[0].crop((3, 4, 20, 11)),))
    assert inside.tobytes() == make_conditions([label])[0].apply(expected).images[0].tobytes()


def test_a_condition_leaves_a_recorded_sample_alone() -> None:
    recorded = sample(0, transforms=("rotate_90",))
    assert Condition(RECORDED, None).apply(recorded) is recorded
