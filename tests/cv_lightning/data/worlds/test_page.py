"""Where ink lies on a page, at every scale."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cv_lightning.data.worlds import page as module
from cv_lightning.data.worlds.page import FONTS, PHOTOS, Page, air_of, extent, font_file, grain, load_photo
from cv_lightning.errors import ConfigError

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def inked(image: Image.Image) -> tuple[int, int, int, int]:
    """The smallest box around the pixels that are not white."""
    rows, columns = np.nonzero((np.asarray(image) != 255).any(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("scale", [1, 3])
def test_ink_begins_where_it_was_asked_for(font: str, scale: int) -> None:
    page = Page((200, 80), scale, WHITE)
    page.text((20, 30), "Pg7J", font, 18, BLACK)
    left, top, right, bottom = (edge / scale for edge in inked(page.image))
    width, height = extent("Pg7J", font, 18)
    assert (top, bottom) == pytest.approx((30, 30 + height), abs=1)
    assert 19 <= left < right <= 21 + width
    assert right - left >= width - air_of(18), "hinting moves letters by a pixel or so"


def test_the_box_of_the_answer_has_air_and_ends_at_the_page() -> None:
    page, hidden = (Page((60, 40), 2, WHITE, hides_target=hides) for hides in (False, True))
    for each in (page, hidden):
        each.target((1, 10), "K7", "DejaVuSans", 12, BLACK)
    (width, height), air = extent("K7", "DejaVuSans", 12), air_of(12)
    assert page.box == hidden.box == (0, 2 * (10 - air), 2 * (1 + width + air), 2 * (10 + height + air))
    left, top, right, bottom = inked(page.image)
    assert page.box[0] <= left < right <= page.box[2]
    assert page.box[1] <= top < bottom <= page.box[3]
    assert hidden.image.getcolors() == [(120 * 80, WHITE)]


def test_a_rectangle_ends_before_its_last_edge() -> None:
    page = Page((20, 20), 2, WHITE)
    page.rectangle((3, 4, 9, 12), fill=BLACK)
    assert inked(page.image) == (6, 8, 18, 24)


def test_grain_is_one_value_for_each_logical_pixel() -> None:
    small, large = (grain(np.random.default_rng(0), (5, 4), scale, 10.0) for scale in (1, 3))
    assert (small.shape, large.shape) == ((4, 5, 3), (12, 15, 3))
    for y in range(3):
        for x in range(3):
            np.testing.assert_array_equal(large[y::3, x::3], small)


@pytest.mark.parametrize("number", range(len(PHOTOS)))
def test_a_photograph_fades_to_the_color_of_the_page(number: int) -> None:
    assert max(load_photo(number).size) <= 1024
    plain, faded = Page((40, 30), 1, WHITE), Page((40, 30), 1, WHITE)
    plain.photo(number, 1.0)
    faded.photo(number, 0.25)
    far = 255 - np.asarray(plain.image, dtype=float)
    np.testing.assert_allclose(255 - np.asarray(faded.image, dtype=float), 0.25 * far, atol=1)


def test_a_package_that_is_missing_is_named_as_pip_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"DejaVuSans\.ttf of matplotlib.*pip install matplotlib"):
        font_file("DejaVuSans")
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        load_photo.__wrapped__(1)
