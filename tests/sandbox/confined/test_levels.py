"""The level that a set of layers gives."""

from __future__ import annotations

from itertools import chain

import pytest

from sandbox.confined.levels import LAYERS, LEVELS, level_of

ALL = [*chain.from_iterable(LAYERS[level] for level in LEVELS)]


def test_every_layer_is_of_one_level() -> None:
    assert len(ALL) == len(set(ALL))
    assert list(LAYERS) == list(LEVELS)


def test_all_layers_give_the_highest_level_and_none_gives_none() -> None:
    assert level_of(dict.fromkeys(ALL, "")) == ("full", [])
    assert level_of({}) == (None, ["rlimits (not tried)"])


@pytest.mark.parametrize("layer", ALL)
def test_a_layer_that_is_missing_ends_the_climb_and_is_named(layer: str) -> None:
    home = next(place for place, level in enumerate(LEVELS) if layer in LAYERS[level])
    reached = LEVELS[home - 1] if home else None
    assert level_of(dict.fromkeys(ALL, "") | {layer: "no such call"}) == (reached, [f"{layer} (no such call)"])
    assert level_of({one: "" for one in ALL if one != layer}) == (reached, [f"{layer} (not tried)"])
