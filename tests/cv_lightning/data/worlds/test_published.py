"""The fixed items equal the published items to the pixel; a difference is detected and its cause is named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.data.worlds import published
from cv_lightning.data.worlds.families import FAMILIES
from cv_lightning.data.worlds.family_world import FamilyWorld, MVToolProcedural
from cv_lightning.data.worlds.published import ItemDigest, Publication, item_digest, main, publication


@pytest.fixture(autouse=True)
def _read_and_warn_anew() -> Iterator[None]:
    yield
    published._warn.cache_clear()
    publication.cache_clear()


def test_items_are_the_published_ones_in_silence() -> None:
    world = MVToolProcedural()
    indices = [*range(2 * len(FAMILIES)), 500, 999]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = [world.sample("test", index) for index in indices]
        MVToolProcedural(scale=2).sample("test", 0, ())
    assert [world.digest(index) for index in indices] == [publication().items[index] for index in indices]
    assert {sample.family for sample in samples} == set(FAMILIES)


@pytest.mark.slow
def test_all_items_are_the_published_ones() -> None:
    assert main([]) == 0


def test_the_version_is_that_of_every_pixel_and_fact() -> None:
    world, index = MVToolProcedural(), 3
    item, own = world._item(index)
    touched = item.images[0].copy()
    red, green, blue = touched.getpixel((700, 500))  # type: ignore[misc]
    touched.putpixel((700, 500), (red, green, blue ^ 1))
    known = item_digest(item, own, 1)
    others: dict[str, ItemDigest] = {
        "a pixel": item_digest(replace(item, images=(touched,)), own, 1),
        "the answer": item_digest(replace(item, answer=item.answer + "1"), own, 1),
        "the question": item_digest(replace(item, question="?"), own, 1),
        "the box": item_digest(replace(item, box=(0, 0, 9, 9)), own, 1),
        "what was done": item_digest(item, ("flip_vertical",), 1),
    }
    assert others["a pixel"].facts == known.facts
    versions = {
        Publication((*publication().items[:index], digest, *publication().items[index + 1 :]), {}).version
        for digest in (known, *others.values())
    }
    assert len(versions) == 1 + len(others)


def test_facts_are_the_same_at_every_scale() -> None:
    for index in range(len(FAMILIES)):
        assert MVToolProcedural(scale=2).digest(index) == replace(MVToolProcedural().digest(index), pixels="")


def test_an_item_that_is_drawn_otherwise_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = FamilyWorld.draw

    def touched(self: FamilyWorld, *arguments: Any, **named: Any) -> Any:
        draft = draw(self, *arguments, **named)
        draft.page.image.putpixel((5, 5), (1, 2, 3))
        return draft

    monkeypatch.setattr(FamilyWorld, "draw", touched)
    monkeypatch.setattr(published, "drawn_with", lambda: {**publication().drawn_with, "FreeType": "1.0"})
    world = MVToolProcedural()
    with pytest.warns(UserWarning, match=r"other pixels than in its version [0-9a-f]{12}: .*FreeType 1\.0 \(publish"):
        world.sample("test", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.sample("test", 8)
        MVToolProcedural(seed=1).sample("test", 7)  # an unpublished world


def test_another_layout_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    upright = FamilyWorld.upright
    monkeypatch.setattr(FamilyWorld, "upright", lambda *arguments: replace(upright(*arguments), answer="another"))
    with pytest.warns(UserWarning, match=r"another layout, question or box than .*results cannot be compared"):
        MVToolProcedural(scale=2).sample("test", 4)


def test_publishing_and_comparing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Publication((ItemDigest("a", "b"), ItemDigest("c", "d"), ItemDigest("e", "f")), {"pillow": "1"})
    monkeypatch.setattr(published, "PUBLISHED", tmp_path / "items.json")
    monkeypatch.setattr(published, "draw_all", lambda: here)
    assert main(["--write"]) == 0
    assert publication() == here
    changed = (here.items[0], ItemDigest("c", "x"), ItemDigest("y", "z"))
    monkeypatch.setattr(published, "draw_all", lambda: replace(here, items=changed))
    assert main([]) == 1
    assert "3 items: 1 with other facts, 1 with other pixels only" in capsys.readouterr().out
