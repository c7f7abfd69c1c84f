"""What an evaluation does to images keeps question, answer and box true, and is the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.corruption import CORRUPTIONS
from cv_lightning.data.orientation import restore_sample
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.conditions import (
    ORIENTATION_CONDITIONS,
    RECORDED,
    Condition,
    corrupt_sample,
    make_conditions,
)
from cv_lightning.evaluation.metrics import orientation_label
from cv_lightning.evaluation.questions import ConditionSet, RobustnessDataModule
from cv_lightning.types import Sample


def sample(seed: int = 0, **changes: Any) -> Sample:
    pixels = np.random.default_rng(seed).integers(60, 200, (24, 36, 3), dtype=np.uint8)
    fields = {"id": f"s{seed}", "question": "What?", "images": (Image.fromarray(pixels),), "answer": "x"} | changes
    return Sample(**fields)


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
        ((["rot91"],), "orientations: there is no 'rot91'. Did you mean 'rot90'"),
        ((["upright"], ["jpg"]), "corruptions: there is no 'jpg'. Did you mean 'jpeg'"),
        ((["upright"], ["jpeg"], [6]), "severities: expected numbers from 1 to 5 but got 6"),
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


class Counting(SampleSource):
    def __init__(self) -> None:
        self.calls: list[tuple[int, Any]] = []

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        self.calls.append((index, transforms))
        return sample(index, transforms=("rotate_90",) if transforms is None else tuple(transforms))

    def size(self, split: Split) -> int | None:
        return 4 if split == "test" else 0


def test_each_question_is_read_once_for_all_its_conditions() -> None:
    source = Counting()
    conditions = make_conditions(["upright", "rot90", RECORDED], ["jpeg"], [1])
    items = ConditionSet(source, "test", [*conditions[:2], conditions[3], conditions[2]], 3, 7)
    seen = [items[index] for index in range(len(items))]
    assert [item.condition.label for item in seen] == ["upright", "rot90", "jpeg_1", "recorded"] * 3
    assert source.calls == [(n, transforms) for n in range(3) for transforms in ((), None)]
    assert seen[3].sample().transforms == ("rotate_90",)
    assert seen[1].sample().transforms == ("rotate_90",)
    with pytest.raises(IndexError):
        items[12]


def test_the_data_module_takes_what_the_source_has() -> None:
    def n_items(**arguments: Any) -> int:
        module = RobustnessDataModule(**{"source": Counting(), "orientations": ["upright", "rot90"], **arguments})
        return len(module.test_dataloader().dataset)  # type: ignore[arg-type]

    assert n_items() == 8
    assert n_items(n_questions=3) == 6
    assert n_items(n_questions=100) == 8
    assert n_items(corruptions=["jpeg"]) == 4 * 5
    assert n_items(source=PlateWorld(), n_questions=5) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": PlateWorld()}, "PlateWorld never ends: give data.n_questions"),
        ({"source": Counting(), "split": "validation"}, "Counting has no validation samples"),
        ({"source": Counting(), "batch_size": 0}, "batch_size >= 1"),
        ({"source": Counting(), "n_questions": 0}, "n_questions >= 1"),
        ({"source": Counting(), "seed": -1}, "RobustnessDataModule.seed"),
    ],
)
def test_data_that_cannot_be_says_why(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RobustnessDataModule(**arguments).test_dataloader()


def test_a_condition_leaves_a_recorded_sample_alone() -> None:
    recorded = sample(0, transforms=("rotate_90",))
    assert Condition(RECORDED, None).apply(recorded) is recorded
