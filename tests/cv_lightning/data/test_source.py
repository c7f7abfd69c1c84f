"""Weights, seeds and draws of every source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cv_lightning.data.source import SampleSource, Split, check_seed, check_weights, choose, generator
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample


class Words(SampleSource):
    """The smallest valid source."""

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        return Sample(f"{split}-{index}", "?", (), "", transforms=tuple(transforms or ()))


def test_a_source_without_an_end_is_asked_under_the_six_orientations() -> None:
    source = Words()
    assert source.size("test") is None
    assert source.exactly("test", 3, ["rotate_90"]) == source.sample("test", 3, ["rotate_90"])
    turns = [("rotate_90",), ("rotate_180",), ("rotate_270",)]
    assert source.conditions == ((), *turns, ("flip_horizontal",), ("flip_vertical",))


def test_names_are_drawn_as_often_as_they_weigh() -> None:
    rng = np.random.default_rng(0)
    drawn = [choose(rng, {"a": 3.0, "never": 0.0, "b": 1.0}) for _ in range(4000)]
    assert set(drawn) == {"a", "b"}
    assert drawn.count("a") / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("weights", [{}, {"none": 0.0}, {"none": -1.0}, {"none": float("nan")}, {"spin": 1.0}], ids=str)
def test_weights_that_cannot_be_are_named(weights: dict[str, float]) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.weights: expected weights of at least 0, not all 0, for names of none"
    ):
        check_weights("data.weights", weights)


@pytest.mark.parametrize(("seed", "is_one"), [(0, True), (2**48 - 1, True), (-1, False), (2**48, False)])
def test_a_seed_is_a_key_of_a_generator(seed: int, is_one: bool) -> None:
    if is_one:
        check_seed("seed", seed)
        assert generator(seed, "train", 0).bytes(8) == generator(seed, "train", 0).bytes(8)
    else:
        with pytest.raises(ConfigError, match=rf"seed: expected 0 <= seed < 2\*\*48, got {seed}"):
            check_seed("seed", seed)
