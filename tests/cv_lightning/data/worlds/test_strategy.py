"""Pages that need strategy: only one plate fits the name, its text needs a crop, and some families share pages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cv_lightning.data.source import SPLITS
from cv_lightning.data.worlds.boards import BOARD, FONT, FONT_SIZES, PLATE
from cv_lightning.data.worlds.page import load_font
from cv_lightning.data.worlds.plates import CHIRAL_ALPHABET
from cv_lightning.data.worlds.strategy import CORNERS, STRATEGY_FAMILIES, StrategyWorld
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample
from sandbox import inverse, orient

indices = st.integers(0, 10_000)

SEEN = 84  # side of an image as the tiny policy sees it, in pixels


families = st.sampled_from(sorted(STRATEGY_FAMILIES))


@given(family=families, index=indices)
def test_the_answer_is_in_the_box_and_nowhere_else(family: str, index: int) -> None:
    world = StrategyWorld()
    shown, hidden = (world.draw("train", index, family, hides_target=hides) for hides in (False, True))
    box = shown.page.box
    assert box is not None
    assert box == hidden.page.box
    assert shown.question == hidden.question
    assert 0 <= box[0] < box[2] <= shown.page.image.width
    assert 0 <= box[1] < box[3] <= shown.page.image.height
    rows, columns = np.nonzero((np.asarray(shown.page.image) != np.asarray(hidden.page.image)).any(-1))
    assert box[0] <= columns.min() <= columns.max() < box[2]
    assert box[1] <= rows.min() <= rows.max() < box[3]


def read_plate(image: Image.Image, side: int) -> str:
    """The text whose picture in the font of plates is most similar to an upright plate at `side` x `side` pixels.

    This reader knows the font and that the text has three characters of the alphabet.
    """
    gray = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    ink = gray.max() - gray
    rows, columns = np.nonzero(ink > 0.75 * ink.max())  # excludes the plate, which is darker than the field of its text
    ink = np.clip(ink - 0.5 * ink.max(), 0, None)
    cut = normal(ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    texts, pictures = templates()
    return texts[int((pictures @ cut).argmax())]


@cache
def templates() -> tuple[list[str], np.ndarray]:
    """All texts of three characters in all font sizes of plates, and their pictures [n, 480]."""
    texts, pictures = [], []
    for size in range(FONT_SIZES[0], FONT_SIZES[1] + 1):
        font = load_font(FONT, size)
        for text in ("".join(text) for text in product(CHIRAL_ALPHABET, repeat=3)):
            left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
            picture = Image.new("L", (right - left, bottom - top))
            ImageDraw.Draw(picture).text((-left, -top), text, 255, font)
            texts.append(text)
            pictures.append(normal(np.asarray(picture, dtype=np.float32)))
    return texts, np.stack(pictures)


def normal(ink: np.ndarray) -> np.ndarray:
    """Ink at 40 x 12 pixels with mean 0 and norm 1, flat."""
    small = np.asarray(Image.fromarray(ink).resize((40, 12), Image.Resampling.BILINEAR), dtype=np.float32).ravel()
    small = small - small.mean()
    return small / (np.linalg.norm(small) + 1e-6)


def plain(sample: Sample) -> Image.Image:
    """The upright cut-out of a sample's box, without a mark."""
    x1, y1, x2, y2 = (int(edge) for edge in sample.box or ())
    cut = sample.images[0].crop((x1, y1, x2, y2))
    for name in reversed([name for name in sample.transforms if name != "crop"]):
        cut = orient(cut, inverse(name))
    return cut


@pytest.mark.parametrize("family", ["find", "find_turned", "small"])
def test_text_is_unreadable_as_seen_and_readable_after_the_crop(family: str) -> None:
    world = StrategyWorld(families={family: 1.0})
    samples = [world.sample("train", index) for index in range(150)]
    samples = [sample for sample in samples if " with the " not in sample.question]
    as_cut = [read_plate(plain(sample), SEEN) == sample.answer for sample in samples]
    side = PLATE * SEEN // BOARD  # pixels of a plate's side in the view of its board; half of that on a page of `small`
    as_seen = [read_plate(plain(sample), side) == sample.answer for sample in samples]
    assert np.mean(as_cut) > 0.6
    assert np.mean(as_seen) < 0.2
    assert FONT_SIZES[1] * SEEN / BOARD < 6


@given(index=indices)
def test_samples_repeat_and_splits_differ(index: int) -> None:
    world = StrategyWorld()
    first, again = world.sample("train", index), world.sample("train", index)
    assert first == replace(again, images=first.images)
    assert first.images[0].tobytes() == again.images[0].tobytes()
    pages = {world.draw(split, index, "find").page.image.tobytes() for split in SPLITS}
    assert len(pages) == len(SPLITS)
    other = StrategyWorld(seed=1).draw("train", index, "find").page.image
    assert other.tobytes() not in pages


def test_a_test_asks_all_families_in_turn_whatever_is_trained() -> None:
    world = StrategyWorld(families={"read": 1.0})
    asked = [world.sample("test", index) for index in range(16)]
    assert [sample.family for sample in asked] == [*STRATEGY_FAMILIES, *STRATEGY_FAMILIES]
    assert {world.sample("train", index).family for index in range(20)} == {"read"}
    by_family = {sample.family: sample for sample in asked[:8]}
    assert orient(by_family["turned"].images[0], "rotate_270").tobytes() == by_family["read"].images[0].tobytes()
    assert by_family["find_turned"].answer == by_family["find"].answer
    assert [sample.transforms for sample in asked if sample.family == "turned"] == [("rotate_90",), ("rotate_180",)]
    assert StrategyWorld.conditions == (None,)


@given(index=indices, family=families)
def test_only_what_helps_is_required(index: int, family: str) -> None:
    sample = StrategyWorld(families={family: 1.0}).sample("train", index)
    needs = {"read": (0, 0), "turned": (1, 0), "find": (0, 1), "find_turned": (1, 1), "small": (0, 1)}
    n_turns, n_crops = needs.get(family, (0, 0))
    assert len(sample.required_tools - {"crop"}) == n_turns
    assert len(sample.required_tools & {"crop"}) == n_crops
    widths = {"small": 2 * BOARD, **dict.fromkeys(("find", "find_turned", "decoy", "locate"), BOARD)}
    assert sample.images[0].width == widths.get(family, sample.images[0].width)


@settings(max_examples=10)
@given(index=indices)
def test_a_faded_image_keeps_less_than_a_tenth_of_its_contrast(index: int) -> None:
    world = StrategyWorld()
    clear, faded = (
        np.asarray(world.draw("train", index, name).page.image, dtype=float).std() for name in ("read", "faded")
    )
    assert 0.03 * clear < faded < 0.1 * clear


def test_small_asks_for_a_plate_of_one_of_four_boards() -> None:
    world = StrategyWorld(families={"small": 1.0})
    for index in range(20):
        sample = world.sample("train", index)
        assert sample.box is not None
        (corner,) = (at for name, at in CORNERS.items() if f"on the {name} board" in sample.question)
        assert corner[0] <= sample.box[0] < corner[0] + BOARD
        assert corner[1] <= sample.box[1] < corner[1] + BOARD


def test_families_and_seeds_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"world\.families: .*find_turned"):
        StrategyWorld(families={"seek": 1.0})
    with pytest.raises(ConfigError, match=r"world\.seed"):
        StrategyWorld(seed=-1)
