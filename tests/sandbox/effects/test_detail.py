"""Detail that a result still shows of the part of the image that its frame names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from sandbox import Affine, orient
from sandbox.effects.detail import keeps_detail, shows_turn
from sandbox.geometry import ORIENTATIONS, orientation_frame


@dataclass(frozen=True)
class View:
    """A result with its place in an image."""

    image: Image.Image
    frame: Affine | None
    orientation: str | None = "identity"

    def keeps(self, root: Image.Image) -> bool:
        return keeps_detail(self.image, root, self.frame, self.orientation)

    def shows(self, root: Image.Image) -> bool:
        return shows_turn(self.image, root, self.frame, self.orientation)


Change = Callable[[Image.Image], Image.Image]


def page(width: int = 252, height: int = 180) -> Image.Image:
    """Plates with text on a page that has some noise."""
    noise = np.random.default_rng(0).integers(205, 216, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    for index, (x, y) in enumerate([(0.1, 0.1), (0.55, 0.2), (0.3, 0.6)]):
        box = (x * width, y * height, (x + 0.3) * width, (y + 0.25) * height)
        draw.rectangle(box, fill=[(150, 40, 40), (30, 90, 40), (40, 40, 140)][index])
        draw.text(box[:2], ["K7P", "3XW", "RB2"][index], (245, 245, 230), ImageFont.load_default(0.15 * height))
    return image


def viewed(root: Image.Image, orientation: str, change: Change) -> View:
    """The root in an orientation, after a change; if the size changes, so does the scale of the frame."""
    turned = orient(root, orientation)
    result = change(turned)
    scale = Affine(a=turned.width / result.width, e=turned.height / result.height)
    return View(result, scale.then(orientation_frame(orientation, root.size)), orientation)


def scaled(*sizes: tuple[int, int]) -> Change:
    def change(image: Image.Image) -> Image.Image:
        for size in sizes:
            image = image.resize(size)
        return image

    return change


KEPT: dict[str, Change] = {
    "moved": lambda image: image,
    "grayscale": lambda image: image.convert("L").convert("RGB"),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.8),
    "faint": lambda image: ImageEnhance.Contrast(image).enhance(0.3),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "stretched": lambda image: ImageOps.autocontrast(image, cutoff=2),
    "inverted": ImageOps.invert,
    "threshold": lambda image: image.convert("L").point(lambda value: 255 * (value > 170)).convert("RGB"),
    "sharper": lambda image: image.filter(ImageFilter.UnsharpMask(2, 200)),
    "blurred a little": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "edges": lambda image: Image.fromarray(cv2.Canny(np.array(image), 100, 200)).convert("RGB"),
    "twice as large": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "half as large": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a third": lambda image: image.resize((image.width // 3, image.height // 3)),
}
LOST: dict[str, Change] = {
    "1 x 1": scaled((1, 1)),
    "2 x 2": scaled((2, 2)),
    "8 x 8": scaled((8, 8)),
    "down and up": lambda image: image.resize((4, 4)).resize(image.size),
    "down and up to tiles": lambda image: image.resize((8, 8)).resize(image.size, Image.Resampling.NEAREST),
    "black": lambda image: Image.new("RGB", image.size),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(30)),
    "no contrast": lambda image: ImageEnhance.Contrast(image).enhance(0),
    "noise": lambda image: Image.effect_noise(image.size, 60).convert("RGB"),
    "another picture": lambda image: page(image.height, image.width).transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("orientation", ["rotate_90", "flip_horizontal"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_policy_may_do_to_an_image_keeps_its_detail(name: str, orientation: str) -> None:
    for root in (page(), page(1200, 900)):
        result = viewed(root, orientation, KEPT[name])
        assert result.keeps(root)
        assert result.shows(root)


@pytest.mark.parametrize("name", LOST)
def test_what_destroys_an_image_shows_nothing(name: str) -> None:
    for root in (page(), page(1200, 900)):
        result = viewed(root, "rotate_180", LOST[name])
        assert not result.keeps(root)
        assert not result.shows(root)


@pytest.mark.parametrize("orientation", ORIENTATIONS[1:])
def test_a_result_that_looks_the_same_turned_back_does_not_show_its_turn(orientation: str) -> None:
    quarter = page(60, 60)
    symmetric = Image.new("RGB", (60, 60))
    for other in ORIENTATIONS:  # the maximum of all eight views: symmetric in every way
        symmetric = Image.fromarray(np.maximum(np.asarray(symmetric), np.asarray(orient(quarter, other))))
    for root in (symmetric, Image.new("RGB", (60, 40), "white"), Image.new("RGB", (1, 1))):
        result = viewed(root, orientation, lambda image: image.resize((2 * image.width, 2 * image.height), 0))
        assert result.keeps(root)
        assert not result.shows(root)
        assert viewed(root, orientation, lambda image: image).shows(root), "nothing is lost: all of it was turned"
    assert viewed(quarter, orientation, lambda image: image).shows(quarter)
    page_with_margin = Image.new("RGB", (90, 90), "white")
    page_with_margin.paste(quarter, (15, 15))
    strip = orient(page_with_margin, orientation).crop((0, 0, 90, 14))
    assert not View(strip, orientation_frame(orientation, (90, 90)), orientation).shows(page_with_margin), (
        "a blank edge"
    )


def test_crops_are_compared_in_their_own_place() -> None:
    root = page()
    for box in ((20, 15, 110, 70), (139, 36, 215, 81)):
        frame = Affine(c=box[0], f=box[1])
        cut = root.crop(box)
        assert View(cut, frame, "identity").keeps(root)
        enlarged = View(cut.resize((4 * cut.width, 4 * cut.height)), Affine(a=0.25, e=0.25).then(frame))
        assert enlarged.keeps(root)
        dot = View(cut.resize((1, 1)), Affine(a=cut.width, e=cut.height).then(frame), "identity")
        assert not dot.keeps(root)
        elsewhere = View(cut, Affine(c=box[0] - 20, f=box[1] + 40), "identity")
        assert not elsewhere.keeps(root)
    tilted = root.rotate(10, Image.Resampling.BICUBIC)
    cosine, sine = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    centre = Affine(c=-root.width / 2, f=-root.height / 2)
    frame = centre.then(Affine(a=cosine, b=-sine, d=sine, e=cosine)).then(centre.inverse())
    assert View(tilted, frame, None).keeps(root)
    assert not View(tilted.resize((2, 2)), Affine(a=126, e=90).then(frame), None).keeps(root)


def test_a_flat_part_has_no_detail_to_lose_and_an_unknown_place_shows_nothing() -> None:
    root = Image.new("RGB", (40, 40), "white")
    root.paste(page(20, 20), (20, 20))
    blank = View(root.crop((0, 0, 15, 15)).resize((3, 3)), Affine(a=5, e=5), "identity")
    assert blank.keeps(root)
    assert not View(root, None, "identity").keeps(root)
    assert not View(orient(root, "rotate_90"), None, "rotate_90").shows(root)
    drawn = orient(root, "rotate_180").crop((25, 25, 40, 40))
    ImageDraw.Draw(drawn).line((0, 0, 9, 3), "red", 2)
    frame = Affine(c=25, f=25).then(orientation_frame("rotate_180", root.size))
    assert not View(drawn, frame, "rotate_180").shows(root)
