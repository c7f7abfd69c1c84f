"""Questions under conditions: each question is read once for all its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.conditions import RECORDED, make_conditions
from cv_lightning.evaluation.questions import ConditionSet, RobustnessDataModule
from cv_lightning.types import Sample
from tests.cv_lightning.evaluation.answered import sample


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
        ({"source": PlateWorld()}, "PlateWorld never ends. Set data.n_questions"),
        ({"source": Counting(), "split": "validation"}, "Counting has no validation samples"),
        ({"source": Counting(), "batch_size": 0}, "batch_size >= 1"),
        ({"source": Counting(), "n_questions": 0}, "n_questions >= 1"),
        ({"source": Counting(), "seed": -1}, "RobustnessDataModule.seed"),
    ],
)
def test_data_that_cannot_be_says_why(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RobustnessDataModule(**arguments).test_dataloader()
