"""Drawings are told from other changes of few pixels; pixels that fit both are no drawing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from sandbox import ORIENTATIONS, Affine, Limits, ToolExecutor, ToolRequest, orient, orientation_frame
from sandbox.effects.search import Effects, find_effects
from tests.sandbox.machine import need, noise

Draw = Callable[[ImageDraw.ImageDraw], object]
Change = Callable[[Any], Any]


@cache
def scene() -> Image.Image:
    """A picture without symmetry: a gradient, shapes and letters."""
    ys, xs = np.mgrid[0:160, 0:240]
    image = Image.fromarray(np.stack([xs * 200 // 240, ys * 200 // 160, (xs + 2 * ys) % 97], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((150, 70, 220, 150), fill=(20, 20, 30))
    draw.text((30, 90), "R7F", fill="white", font=ImageFont.load_default(size=40))
    return image


@cache
def page() -> Image.Image:
    """Black letters with smooth edges, a gray and a blue bar on white."""
    image = Image.new("RGB", (240, 160), "white")
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(("TOTAL 12.50", "RECEIPT 7", "TABLE FOUR")):
        draw.text((10, 10 + 36 * row), text, fill="black", font=ImageFont.load_default(size=20))
    draw.rectangle((170, 30, 195, 150), fill=(120, 120, 120))
    draw.rectangle((205, 90, 230, 150), fill=(40, 60, 200))
    return image


@cache
def bilevel() -> Image.Image:
    return page().convert("L").point(lambda value: 255 * (value > 127)).convert("RGB")


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "scene": scene,
    "page": page,
    "bilevel": bilevel,
    "noise": lambda: noise(240, 160),
}

DRAWN: dict[str, Draw] = {
    "box": lambda draw: draw.rectangle((110, 20, 160, 70), outline="red", width=2),
    "thin box": lambda draw: draw.rectangle((110, 20, 160, 70), outline=(0, 255, 0)),
    "grid": lambda draw: [draw.line((x, 0, x, 160), fill="red") for x in range(0, 240, 24)],
    "ellipse": lambda draw: draw.ellipse((90, 40, 160, 90), outline=(255, 0, 255), width=3),
    "letters": lambda draw: draw.text((100, 50), "X1", fill="red", font=ImageFont.load_default(size=40)),
}


def effects(before: Image.Image, after: Image.Image) -> Effects:
    return find_effects(np.asarray(before), np.asarray(after))


def drawn_on(image: Image.Image, draw: Draw) -> Image.Image:
    copy = image.copy()
    draw(ImageDraw.Draw(copy))
    return copy


def changed(image: Image.Image, change: Change) -> Image.Image:
    pixels = np.array(image)
    result = change(pixels)
    return Image.fromarray(pixels if result is None else result)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", DRAWN)
@pytest.mark.parametrize("picture", ["scene", "page"])
def test_drawings_are_found_in_any_orientation(picture: str, shape: str, orientation: str) -> None:
    image = PICTURES[picture]()
    found = effects(image, drawn_on(orient(image, orientation), DRAWN[shape]))
    turn = () if orientation == "identity" else (orientation,)
    assert found == Effects((*turn, "draw"), orientation, orientation_frame(orientation, image.size))


def test_two_colors() -> None:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((110, 20, 160, 70), outline="red", width=3)
        pen.line((100, 10, 170, 80), fill=(255, 0, 255), width=3)

    assert effects(page(), drawn_on(page(), draw)).tools == ("draw",)


def test_lines_of_opencv_smooth_or_not() -> None:
    for line in (cv2.LINE_8, cv2.LINE_AA):
        for picture in (scene(), page()):
            circled = changed(picture, lambda a, line=line: cv2.circle(a, (120, 60), 30, (0, 255, 0), 2, line))
            named = changed(picture, lambda a, line=line: cv2.putText(a, "AB", (100, 60), 0, 1, (255, 0, 0), 2, line))
            assert effects(picture, circled).tools == effects(picture, named).tools == ("draw",)


def test_drawings_on_large_images() -> None:
    large = Image.fromarray(cv2.resize(np.asarray(scene()), (3000, 2200), interpolation=cv2.INTER_CUBIC))
    ring = drawn_on(large, lambda draw: draw.ellipse((40, 40, 2900, 2100), outline="red", width=9))
    assert effects(large, ring).tools == ("draw",)
    sheet = page().resize((3000, 2200))
    filled = drawn_on(sheet, lambda draw: draw.rectangle((900, 300, 1900, 1300), fill="red"))
    assert effects(sheet, filled).tools == ("draw",)


def test_a_drawing_on_an_empty_page_stands_upright() -> None:
    blank = Image.new("RGB", (90, 90), "white")
    assert effects(blank, drawn_on(blank, DRAWN["grid"])) == Effects(("draw",), "identity", Affine())


def in_region(change: Change) -> Change:
    def apply(pixels: Any) -> None:
        pixels[40:90, 5:110] = change(np.ascontiguousarray(pixels[40:90, 5:110]))

    return apply


def speckle(share: float) -> Change:
    def apply(pixels: Any) -> None:
        chance = np.random.default_rng(0).random(pixels.shape[:2])
        pixels[chance < share / 2] = 0
        pixels[chance > 1 - share / 2] = 255

    return apply


def put(where: Callable[[Any], Any], color: object) -> Change:
    def apply(pixels: Any) -> None:
        pixels[where(pixels)] = color

    return apply


def morphology(operation: Callable[..., Any], side: int, times: int = 1) -> Change:
    return lambda pixels: operation(pixels, np.ones((side, side), np.uint8), iterations=times)


NOT_DRAWN: dict[str, Change] = {
    "nothing": lambda pixels: None,
    "a pixel": put(lambda _: (5, 5), (255, 0, 0)),
    "fifteen pixels": put(lambda _: (5, slice(0, 15)), (255, 0, 0)),
    "colors that nobody sees": in_region(lambda part: part ^ 8),
    "specks": speckle(0.01),
    "many specks": speckle(0.1),
    "very many specks": speckle(0.24),
    "dark made black": put(lambda pixels: pixels.max(-1) < 128, 0),
    "bright made white": put(lambda pixels: pixels.min(-1) > 128, 255),
    "blue made red": put(lambda pixels: pixels[..., 2].astype(int) - pixels[..., 0] > 90, (255, 0, 0)),
    "gray made red": put(lambda pixels: (pixels == 120).all(-1), (255, 0, 0)),
    "thicker": morphology(cv2.erode, 3),
    "much thicker": morphology(cv2.erode, 5, 2),
    "thinner": morphology(cv2.dilate, 3),
    "opened": lambda pixels: cv2.morphologyEx(pixels, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)),
    "median": lambda pixels: cv2.medianBlur(pixels, 5),
    "moved by two": lambda pixels: np.roll(pixels, 2, axis=1),
    "moved by twenty": lambda pixels: np.roll(pixels, 20, axis=0),
    "a part inverted": in_region(lambda part: 255 - part),
    "a part blurred": in_region(lambda part: cv2.blur(part, (5, 5))),
    "a part enlarged": in_region(lambda part: cv2.resize(part[:25, :52], (105, 50), interpolation=cv2.INTER_NEAREST)),
    "a part brighter": in_region(lambda part: cv2.convertScaleAbs(part, alpha=0.6)),
    "a part overlaid": in_region(lambda part: (part * 0.6 + np.array([102, 102, 0])).astype(np.uint8)),
    "letters erased": lambda pixels: cv2.inpaint(pixels, (pixels.max(-1) < 90).astype(np.uint8), 3, cv2.INPAINT_TELEA),
    "half of it blackened": put(lambda _: slice(0, 80), 0),
}


@pytest.mark.parametrize("change", NOT_DRAWN)
@pytest.mark.parametrize("picture", PICTURES)
def test_what_else_changes_few_pixels_is_no_drawing(picture: str, change: str) -> None:
    image = PICTURES[picture]()
    assert "draw" not in effects(image, changed(image, NOT_DRAWN[change])).tools


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(PICTURES)), st.booleans())
def test_no_table_of_colors_is_a_drawing(seed: int, picture: str, is_gray: bool) -> None:
    rng = np.random.default_rng(seed)
    table = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    low, high = np.sort(rng.integers(0, 257, 2))
    table[0, low:high] = rng.integers(0, 256, (1, 3)) if rng.random() < 0.5 else rng.integers(0, 256, (high - low, 1))
    image = PICTURES[picture]().convert("L").convert("RGB") if is_gray else PICTURES[picture]()
    assert "draw" not in effects(image, changed(image, lambda pixels: cv2.LUT(pixels, table))).tools


@given(st.integers(-60, 60), st.integers(-60, 60), st.sampled_from(["page", "bilevel"]))
def test_no_move_is_a_drawing(right: int, down: int, picture: str) -> None:
    pixels = np.asarray(PICTURES[picture]())
    assert "draw" not in find_effects(pixels, np.roll(pixels, (down, right), (0, 1))).tools


@pytest.mark.parametrize(
    ("code", "tools"),
    [
        ("cv2.rectangle(a, (110, 20), (160, 70), (255, 0, 0), 2)", ("draw",)),
        ("cv2.rectangle(a, (110, 20), (160, 70), (255, 0, 0), 2); a = np.rot90(a)", ("rotate_90", "draw")),
        ("a[100:104, 20:220] = (255, 0, 0)", ("draw",)),
        ("a[5, 5] = (255, 0, 0)", ()),
        ("b = a.copy(); cv2.rectangle(a, (110, 20), (160, 70), (255, 0, 0), 2); a = b", ()),
        ("print('I drew a red rectangle with cv2.rectangle(a, (110, 20), (160, 70)).'); a = a[::1]", ()),
        ("old = a[20:70].copy(); cv2.line(a, (0, 30), (90, 30), (255, 0, 0), 3); a[20:70] = old", ()),
    ],
    ids=["draws", "draws and turns", "paints", "a pixel", "on another image", "says so", "undoes it"],
)
def test_confined_code_is_credited_for_what_it_drew(code: str, tools: tuple[str, ...], confined: ToolExecutor) -> None:
    code = f"a = np.array(image)\n{code}\nresult = Image.fromarray(np.ascontiguousarray(a))"
    assert confined.execute([ToolRequest(code, [scene()])])[0].tools == tools


@pytest.fixture(scope="module")
def confined() -> Any:
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10)) as made:
        yield made
