"""Pages of the families: the pixels show their facts at every resolution, and the fixed items do not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.source import SPLITS
from cv_lightning.data.worlds.families import FAMILIES
from cv_lightning.data.worlds.family_world import FamilyWorld, MVToolProcedural
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample
from sandbox import ToolExecutor, orient

families = st.sampled_from(sorted(FAMILIES))
indices = st.integers(0, 10_000)


@given(family=families, index=indices)
def test_a_larger_rendering_is_the_same_page(family: str, index: int) -> None:
    small, large = (FamilyWorld(scale=scale).draw("test", index, family) for scale in (1, 2))
    assert (large.question, large.answer, large.needs_crop) == (small.question, small.answer, small.needs_crop)
    assert large.page.image.size == tuple(2 * side for side in small.page.image.size)
    assert small.page.box is not None
    assert large.page.box == tuple(2 * side for side in small.page.box)


@given(index=indices)
def test_samples_repeat_and_splits_differ(index: int) -> None:
    world = FamilyWorld()
    first, again = world.sample("train", index), world.sample("train", index)
    assert first == replace(again, images=first.images)
    assert first.images[0].tobytes() == again.images[0].tobytes()
    pages = {world.sample(split, index, ()).images[0].tobytes() for split in SPLITS}
    assert len(pages) == len(SPLITS)


@given(index=indices, transform=st.sampled_from(["rotate_90", "rotate_180", "flip_horizontal"]))
def test_box_and_tools_follow_the_orientation(index: int, transform: str) -> None:
    world = FamilyWorld()
    upright, turned = world.sample("test", index, ()), world.sample("test", index, (transform,))
    assert turned.images[0].tobytes() == orient(upright.images[0], transform).tobytes()
    assert ("crop" in turned.required_tools) == ("crop" in upright.required_tools)
    assert turned.required_tools - {"crop"}
    assert not upright.required_tools - {"crop"}
    assert (
        cut(upright).tobytes() == orient(cut(turned), {"rotate_90": "rotate_270"}.get(transform, transform)).tobytes()
    )


def cut(sample: Sample) -> Image.Image:
    assert sample.box is not None
    x1, y1, x2, y2 = map(int, sample.box)
    return sample.images[0].crop((x1, y1, x2, y2))


@given(index=indices, budget=st.integers(60, 400))
def test_small_text_is_small_and_large_text_large_at_the_budget(index: int, budget: int) -> None:
    world = FamilyWorld(max_pixels=budget * budget, width=1024, height=768)
    small, large = world.sizes.small, world.sizes.large
    assert small[1] * world.reduction <= world.unreadable_px
    assert large[0] * world.reduction >= world.readable_px
    for family in ("labels", "receipt", "form"):
        draft = world.draw("test", index, family)
        assert draft.needs_crop
        assert draft.page.box is not None
        letters = draft.page.box[3] - draft.page.box[1]
        assert letters * world.reduction < 3 * world.unreadable_px


def test_the_oracle_writes_episodes_of_what_needs_no_crop() -> None:
    builder = EpisodeBuilder(source=FamilyWorld(families={"chart": 1.0, "faded": 1.0}))
    with ToolExecutor(lane="pillow") as executor:
        episodes = [builder.episode("train", index, executor) for index in range(12)]
        none = EpisodeBuilder(source=FamilyWorld(families={"receipt": 1.0})).episode("train", 0, executor)
    assert all(episode is not None and episode.answer == episode.sample.answer for episode in episodes)
    assert none is None


def test_the_turned_family_is_never_upright() -> None:
    world = FamilyWorld(families={"turned": 1.0})
    assert all(set(world.sample("test", index).transforms) - {"crop"} for index in range(40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": {"poster": 1.0}}, "labels, turned, receipt"),
        ({"width": 32}, "at least 64 x 64"),
        ({"scale": 0}, "a scale from 1 to 16"),
        ({"unreadable_px": 9.0}, "unreadable_px < readable_px"),
        ({"max_pixels": 640 * 480}, "Raise width and height or lower max_pixels"),
        ({"seed": -1}, "world.seed"),
    ],
)
def test_what_cannot_be_drawn_is_said(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FamilyWorld(**changes)  # type: ignore[arg-type]


def test_the_fixed_items_cover_every_family_and_orientation() -> None:
    world = MVToolProcedural()
    samples = [world.sample("test", index) for index in range(36)]
    assert {sample.family for sample in samples} == set(FAMILIES)
    kinds = {(sample.family, tuple(name for name in sample.transforms if name != "crop")) for sample in samples}
    assert len(kinds) == 35, "the turned family is never upright: it shows one orientation twice"
    assert [world.size(split) for split in ("train", "validation", "test")] == [0, 0, 1000]
    with pytest.raises(IndexError, match="0 to 999, got 1000"):
        world.sample("test", 1000)


@given(index=indices)
def test_no_family_shows_the_pages_of_another(index: int) -> None:
    world = FamilyWorld()
    pages = {family: world.draw("test", index, family) for family in ("labels", "turned")}
    assert pages["labels"].page.image.tobytes() != pages["turned"].page.image.tobytes()
    assert pages["labels"].answer != pages["turned"].answer
    grounds = {
        family: world.draw("test", index, family).page.image.getpixel((0, 479)) for family in ("receipt", "form")
    }
    assert len(set(grounds.values())) == 2
