"""Operations are read from the pixels: a result that fits twice, or not at all, is unknown."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from sandbox import ORIENTATIONS, Affine, compose, orient, orientation_frame
from sandbox.effects import search as effects
from sandbox.effects.search import Effects


def find_effects(source: Image.Image, result: Image.Image) -> Effects:
    return effects.find_effects(np.asarray(source), np.asarray(result))


def scene(width: int = 240, height: int = 160) -> Image.Image:
    """A picture without symmetry: a gradient, shapes and letters."""
    ys, xs = np.mgrid[0:height, 0:width]
    pixels = np.stack([xs * 200 // width, ys * 200 // height, (xs + 2 * ys) % 97], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 15, 90, 60), fill=(240, 230, 60))
    draw.ellipse((150, 70, 220, 150), fill=(20, 20, 30))
    draw.text((30, 90), "R7F", fill="white", font=ImageFont.load_default(size=40))
    return image


SCENE = scene()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exact_orientations(orientation: str) -> None:
    expected = Effects(
        () if orientation == "identity" else (orientation,), orientation, orientation_frame(orientation, SCENE.size)
    )
    assert find_effects(SCENE, orient(SCENE, orientation)) == expected


@given(st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS))
def test_what_is_undone_leaves_what_is_left(first: str, then: str) -> None:
    found = find_effects(SCENE, orient(orient(SCENE, first), then))
    assert found.orientation == compose(first, then)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("box", [(10, 10, 100, 70), (0, 0, 240, 159), (139, 60, 239, 160), (60, 5, 200, 155)], ids=str)
def test_crops_are_found_where_they_lie(box: tuple[int, int, int, int], orientation: str) -> None:
    found = find_effects(SCENE, orient(SCENE.crop(box), orientation))
    assert found.frame is not None
    assert found.orientation == orientation
    assert found.tools == (("crop",) if orientation == "identity" else (orientation, "crop"))
    size = (box[2] - box[0], box[3] - box[1])
    turned = (size[1], size[0]) if orientation in ("rotate_90", "rotate_270", "transpose", "transverse") else size
    assert found.frame.box((0, 0, *turned)) == box


@given(st.integers(0, 180), st.integers(0, 110), st.integers(24, 60), st.integers(24, 50))
def test_any_crop_is_right_or_unknown(left: int, top: int, width: int, height: int) -> None:
    found = find_effects(SCENE, SCENE.crop((left, top, left + width, top + height)))
    assert found.frame in (None, Affine(c=left, f=top))


CHANGED = {
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "autocontrast": lambda image: ImageOps.autocontrast(image, cutoff=5),
    "sharpen": lambda image: image.filter(ImageFilter.SHARPEN),
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "gamma": lambda image: image.point(lambda value: int(255 * (value / 255) ** 0.7)),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("change", CHANGED)
def test_orientation_is_seen_through_a_color_change(change: str, orientation: str) -> None:
    found = find_effects(SCENE, CHANGED[change](orient(SCENE, orientation)))
    assert found.orientation == orientation
    assert found.tools == (("color",) if orientation == "identity" else (orientation, "color"))
    assert found.frame == orientation_frame(orientation, SCENE.size)


def test_named_color_changes() -> None:
    assert find_effects(SCENE, ImageOps.invert(SCENE)).tools == ("invert",)
    assert find_effects(SCENE, SCENE.convert("L").convert("RGB")).tools == ("grayscale",)
    assert find_effects(SCENE, SCENE.rotate(180).convert("L").convert("RGB")).tools == ("rotate_180", "grayscale")


@pytest.mark.parametrize("size", [(480, 320), (120, 80), (200, 200)], ids=str)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_seen_through_a_resize(orientation: str, size: tuple[int, int]) -> None:
    found = find_effects(SCENE, orient(SCENE, orientation).resize(size))
    assert found.orientation == orientation
    assert "resize" in found.tools
    assert set(found.tools) <= {orientation, "resize"}
    assert found.frame is not None
    assert found.frame.box((0, 0, *size)) == pytest.approx((0, 0, 240, 160))


def test_a_symmetric_image_does_not_tell() -> None:
    ring = np.zeros((40, 40, 3), np.uint8)
    cv2.circle(ring, (20, 20), 10, (255, 0, 0), 3)
    symmetric = Image.fromarray(np.maximum(ring, ring[:, ::-1]))
    assert find_effects(symmetric, symmetric).orientation == "identity"
    stripes = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[:, None, None], (1, 40, 3)))
    assert find_effects(stripes, orient(stripes, "rotate_180")) == Effects(), "as well a vertical flip"


def test_crops_that_lie_in_several_places_are_unknown() -> None:
    flat = Image.new("RGB", (100, 80), (9, 9, 9))
    assert find_effects(flat, flat.crop((10, 10, 40, 40))) == Effects()
    tile = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    tiled = Image.new("RGB", (40, 40))
    for x in (0, 20):
        for y in (0, 20):
            tiled.paste(tile, (x, y))
    assert find_effects(tiled, tile) == Effects()
    assert find_effects(SCENE, Image.new("RGB", (30, 30), (240, 230, 60))) == Effects()


OTHER = Image.fromarray(np.random.default_rng(1).integers(0, 255, (160, 240, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "result",
    [
        OTHER,
        OTHER.rotate(90, expand=True),
        OTHER.crop((0, 0, 50, 50)),
        Image.new("RGB", (240, 160)),
        Image.new("RGB", (1, 1), "red"),
        scene(160, 240),
        SCENE.rotate(45, expand=True),
        SCENE.filter(ImageFilter.FIND_EDGES),
    ],
    ids=[
        "noise",
        "a turn of something else",
        "a crop of something else",
        "black",
        "a pixel",
        "a redrawing",
        "oblique",
        "edges",
    ],
)
def test_something_else_is_unknown(result: Image.Image) -> None:
    found = find_effects(SCENE, result)
    assert found.frame is None
    assert found.orientation is None
    assert found.tools == ()


def test_a_few_changed_pixels_are_seen_and_have_no_name() -> None:
    small = scene(120, 80)
    turned = small.rotate(180)
    turned.putpixel((100, 50), (1, 2, 3))
    assert find_effects(small, turned) == Effects(
        ("rotate_180",), "rotate_180", orientation_frame("rotate_180", (120, 80))
    )
    turned.paste(OTHER.crop((0, 0, 10, 10)), (100, 50))
    assert find_effects(small, turned).orientation == "rotate_180"
    assert find_effects(small, turned).tools == ("rotate_180", "color")


@pytest.mark.parametrize("size", [(1, 60), (60, 1), (2, 60)])
def test_a_line_of_pixels_that_was_painted_on_ends_nothing(size: tuple[int, int]) -> None:
    before = np.full((size[1], size[0], 3), 255, np.uint8)
    after = before.copy()
    after.reshape(-1, 3)[:25] = (200, 0, 0)
    assert find_effects(before, after).orientation in ("identity", None)
