"""The box of a page contains everything that shows the answer, and a page too small for its family is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.worlds.families import FAMILIES, Paper, Sizes
from cv_lightning.data.worlds.family_world import FamilyWorld
from cv_lightning.errors import ConfigError

families = st.sampled_from(sorted(FAMILIES))


indices = st.integers(0, 10_000)


def changed(first: Image.Image, second: Image.Image) -> tuple[int, int, int, int]:
    """The smallest box around the pixels in which two images differ."""
    rows, columns = np.nonzero((np.asarray(first) != np.asarray(second)).any(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def contains(outer: tuple[float, ...], inner: tuple[float, ...]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


@given(family=families, index=indices)
def test_what_holds_the_answer_lies_in_the_box_and_nowhere_else(family: str, index: int) -> None:
    world = FamilyWorld()
    shown, hidden = (world.draw("train", index, family, hides_target=hides) for hides in (False, True))
    box = shown.page.box
    assert box is not None
    assert contains((0, 0, *shown.page.image.size), box)
    target = changed(shown.page.image, hidden.page.image)
    assert contains(box, target)
    assert (target[2] - target[0]) * (target[3] - target[1]) >= 0.3 * (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize(
    ("family", "size", "needs"),
    [
        ("labels", (90, 30), "two labels"),
        ("receipt", (200, 60), "seven lines"),
        ("receipt", (60, 400), "16 characters"),
        ("form", (300, 30), "two fields"),
        ("chart", (100, 200), "two bars"),
    ],
)
def test_a_page_without_room_is_refused_with_the_remedy(family: str, size: tuple[int, int], needs: str) -> None:
    paper = Paper(size, 1, Sizes(small=(9, 9), large=(14, 18)))
    with pytest.raises(ConfigError, match=f"{needs}.*Raise width"):
        FAMILIES[family](paper, np.random.default_rng(0))
