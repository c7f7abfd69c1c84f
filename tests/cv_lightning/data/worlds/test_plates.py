"""Plates: reproducible by index, splits that never meet, text inside the image."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.data.source import ORIENTATION_WEIGHTS, SPLITS, Split, check_weights, choose_transforms, generator
from cv_lightning.data.worlds.plates import CHIRAL_ALPHABET, PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample
from sandbox import ORIENTATIONS, orient

ROOT = Path(__file__).parents[4]

indices = st.integers(0, 2**40)


def content(sample: Sample) -> tuple[Any, ...]:
    return sample.id, sample.answer, sample.transforms, [image.tobytes() for image in sample.images]


@given(seed=st.integers(0, 2**48 - 1), split=st.sampled_from(list(SPLITS)), index=indices)
def test_a_sample_is_a_function_of_seed_split_and_index(seed: int, split: Split, index: int) -> None:
    assert content(PlateWorld(seed=seed).sample(split, index)) == content(PlateWorld(seed=seed).sample(split, index))


def test_the_order_of_asking_changes_nothing() -> None:
    world = PlateWorld(seed=3)
    forward = [content(world.sample("train", index)) for index in range(20)]
    backward = [content(world.sample("train", index)) for index in reversed(range(20))]
    assert forward == backward[::-1]


def test_splits_seeds_and_uses_draw_from_streams_of_their_own() -> None:
    draws = {
        (seed, split, index, stream): generator(seed, split, index, stream).bytes(16)
        for seed in (0, 1, 2, 255, 256, 2**48 - 1)
        for split in SPLITS
        for index in (0, 1, 2, 2**40)
        for stream in (0, 1, 2)
    }
    assert len(set(draws.values())) == len(draws)


def test_splits_share_no_image() -> None:
    world = PlateWorld()
    seen = {split: {world.sample(split, index, ()).images[0].tobytes() for index in range(300)} for split in SPLITS}
    assert all(len(images) == 300 for images in seen.values())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_orientations_are_chosen_as_often_as_their_weights_say() -> None:
    world = PlateWorld(weights={"none": 2.0, "rotate_90": 1.0, "flip_vertical": 1.0, "rotate_180": 0.0})
    counts = Counter(world.sample("train", index).transforms for index in range(2000))
    assert set(counts) == {(), ("rotate_90",), ("flip_vertical",)}
    assert counts[()] == pytest.approx(1000, abs=100)  # 4.5 standard deviations
    assert counts["rotate_90",] == pytest.approx(500, abs=88)


def test_the_question_does_not_tell_the_orientation() -> None:
    world = PlateWorld()
    samples = [world.sample("test", 7, () if name == "none" else (name,)) for name in ORIENTATION_WEIGHTS]
    assert len({(sample.question, sample.answer, sample.id) for sample in samples}) == 1
    assert len({sample.images[0].tobytes() for sample in samples}) == len(ORIENTATION_WEIGHTS)


@given(
    index=indices,
    width=st.integers(60, 200),
    height=st.integers(16, 200),
    length=st.tuples(st.integers(1, 4), st.integers(0, 4)),
    fonts=st.tuples(st.integers(6, 40), st.integers(0, 60)),
)
def test_text_of_any_world_stands_inside_its_image(
    index: int, width: int, height: int, length: tuple[int, int], fonts: tuple[int, int]
) -> None:
    world = PlateWorld(
        width=width,
        height=height,
        min_length=length[0],
        max_length=sum(length),
        min_font_size=fonts[0],
        max_font_size=sum(fonts),
        alphabet="2FWg",
    )
    sample = world.sample("train", index, ())
    assert sample.images[0].size == (width, height)
    assert length[0] <= len(sample.answer) <= sum(length)
    assert set(sample.answer) <= set("2FWg")
    ink = _ink(sample)
    assert ink.any(), "nothing was drawn"


def _ink(sample: Sample) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The mask of pixels whose brightness is closer to the text's than to the background's."""
    grey = np.asarray(sample.images[0].convert("L"), dtype=int)
    return grey < 128


@pytest.mark.parametrize("size", [(84, 84), (448, 448), (120, 40)])
def test_a_plate_is_one_ink_on_one_ground_with_contrast(size: tuple[int, int]) -> None:
    world = PlateWorld(width=size[0], height=size[1])
    for index in range(30):
        pixels = np.asarray(world.sample("test", index, ()).images[0], dtype=int)
        grey = pixels.mean(axis=-1)
        assert grey.max() >= 196
        assert grey.min() < 60
        assert (np.median(pixels, axis=(0, 1)) >= 196).all(), "most of a plate is ground"


def test_text_is_never_cut_by_the_border() -> None:
    narrow, wide = (PlateWorld(width=width, min_font_size=60, max_font_size=90) for width in (84, 400))
    for index in range(50):
        assert _ink(wide.sample("train", index, ())).sum() > 0
        columns = _ink(narrow.sample("train", index, ())).any(axis=0)
        drawn = np.flatnonzero(columns)
        assert drawn.max() - drawn.min() + 1 <= 84
        # Three characters of a font are at least 3 x 0.3 times as wide as high; cut text would be narrower.
        rows = np.flatnonzero(_ink(narrow.sample("train", index, ())).any(axis=1))
        assert len(drawn) >= 0.9 * len(rows)


def _likeness(character: str) -> float:
    """The largest IoU of a character's ink with its own turned or mirrored ink (1: it is symmetric)."""
    world = PlateWorld(alphabet=character, min_length=1, max_length=1, min_font_size=60, max_font_size=60)
    plate = world.sample("train", 0, ()).images[0].convert("L")
    glyph = plate.crop(plate.point(lambda value: 255 * (value < 128)).getbbox()).resize((32, 32))
    upright = np.asarray(glyph) < 128
    turned = [np.asarray(orient(glyph, name)) < 128 for name in ORIENTATIONS[1:6]]
    return max(float((upright & other).sum() / (upright | other).sum()) for other in turned)


def test_characters_of_the_default_alphabet_have_no_symmetry() -> None:
    assert min(map(_likeness, "HIOXNSZ08ACDEK")) > 0.86, "the measure tells symmetric characters"
    assert max(map(_likeness, CHIRAL_ALPHABET)) < 0.86


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": {"rotate_45": 1.0}}, "rotate_45"),
        ({"weights": {"crop": 1.0}}, "rotate_90"),
        ({"weights": {"none": 0.0}}, "not all 0"),
        ({"weights": {"none": 2.0, "rotate_90": -1.0}}, "at least 0"),
        ({"weights": {"none": float("nan")}}, "at least 0"),
        ({"min_length": 4, "max_length": 3}, "min_length"),
        ({"min_length": 0}, "min_length"),
        ({"min_font_size": 40, "max_font_size": 30}, "min_font_size"),
        ({"min_font_size": 1}, "min_font_size"),
        ({"width": 4}, "8 x 8"),
        ({"alphabet": ""}, "alphabet"),
        ({"alphabet": "AB C"}, "no glyph for ' '"),
        ({"alphabet": "A漢"}, "漢"),
        ({"max_length": 60}, "Raise width"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**48}, "seed"),
    ],
)
def test_a_world_that_cannot_be_says_why(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PlateWorld(**arguments)


@given(st.dictionaries(st.sampled_from(list(ORIENTATION_WEIGHTS)), st.floats(0, 1e6), min_size=1))
def test_weights_that_pass_the_check_can_be_drawn_from(weights: dict[str, float]) -> None:
    try:
        check_weights("weights", weights)
    except ConfigError:
        assert not any(weights.values())
        return
    chosen = choose_transforms(generator(0, "train", 0), weights)
    assert weights[chosen[0] if chosen else "none"] > 0


def test_worlds_and_oracles_need_no_torch() -> None:
    code = (
        "import sys, cv_lightning.data.sources, cv_lightning.data.oracle, cv_lightning.data.worlds.plates as w\n"
        "w.PlateWorld().sample('train', 0)\n"
        "heavy = {'torch', 'lightning', 'transformers', 'matplotlib.pyplot', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
