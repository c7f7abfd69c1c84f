"""Tools, orientation and frame of lifted code agree with the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox import ORIENTATIONS, Observation, ToolExecutor, ToolRequest, compose, orient


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramp(width: int, height: int) -> Image.Image:
    """Red is x and green is y, in steps of 1 / 250 of the image."""
    xs, ys = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((np.stack([xs, ys, np.ones_like(xs)], axis=-1) * 250 + 0.5).astype(np.uint8))


def run(code: str, image: Image.Image) -> Observation:
    return ToolExecutor(lane="pillow").execute([ToolRequest(code, [image])])[0]


TOOLS = {
    "result = image": (),
    "result = image.rotate(0)": (),
    "result = image.rotate(360, expand=True)": (),
    "result = image.rotate(90, expand=True)": ("rotate_90",),
    "result = image.rotate(-90, expand=True)": ("rotate_270",),
    "result = image.rotate(90)": ("rotate_90", "crop"),
    "result = image.rotate(90).rotate(270)": ("crop",),
    "result = image.rotate(90, expand=True).rotate(270, expand=True)": (),
    "result = image.rotate(90, expand=1).rotate(90, expand=1).rotate(90, expand=1).rotate(90, expand=1)": (),
    "result = image.rotate(90, expand=True).rotate(90, expand=True)": ("rotate_180",),
    "result = ImageOps.mirror(image.rotate(180))": ("flip_vertical",),
    "result = ImageOps.flip(image).crop((2, 2, 9, 9)).rotate(90)": ("transverse", "crop"),
    "result = image.rotate(10)": ("rotate",),
    "result = image.crop((0, 0, image.width, image.height))": (),
    "result = image.crop((0, 0, image.width - 1, image.height))": ("crop",),
    "result = image.crop((-2, -2, image.width + 2, image.height + 2))": ("pad",),
    "result = image.crop((-2, 3, 9, 9))": ("crop",),
    "result = image.resize(image.size)": (),
    "result = image.resize((5, 5))": ("resize",),
    "result = image.resize((40, 24), Image.NEAREST).resize((20, 12), Image.NEAREST)": (),
    "result = ImageOps.expand(image, 0)": (),
    "result = ImageOps.expand(image, 2)": ("pad",),
    "result = ImageOps.expand(image, 2).crop((2, 2, 22, 14))": (),
    "result = ImageEnhance.Contrast(image).enhance(1)": (),
    "result = ImageEnhance.Contrast(image).enhance(1.5)": ("contrast",),
    "result = ImageEnhance.Contrast(image).enhance(1.5).convert('L')": ("contrast", "grayscale"),
    "result = ImageOps.invert(ImageOps.invert(image))": (),
    "result = ImageOps.invert(ImageOps.invert(image.crop((1, 1, 5, 5))))": ("crop",),
    "result = image.convert('L').convert('L')": ("grayscale",),
    "result = image.convert('RGB')": (),
    "result = Image.fromarray(np.array(image)[:, :, ::-1][:, :, ::-1])": (),
    "result = Image.fromarray(np.array(image)[:, :, ::-1])": ("channel_swap",),
    "ImageEnhance.Contrast(image).enhance(1.5)\nresult = image.rotate(180)": ("rotate_180",),
    "# image.crop((1, 2, 3, 4))\nresult = image": (),
    "'image.rotate(90)'\nresult = image": (),
}


@pytest.mark.parametrize("code", TOOLS)
def test_tools_by_hand(code: str) -> None:
    observation = run(code, noise(20, 12))
    assert observation.status == "ok", observation.text
    assert observation.tools == TOOLS[code]


def test_an_operation_without_effect_is_no_tool() -> None:
    black = Image.new("RGB", (8, 8))
    assert run("result = ImageEnhance.Contrast(image).enhance(3)", black).tools == ()
    assert run("result = image.convert('L')", black).tools == ()
    assert run("result = ImageOps.mirror(image)", black).tools == ()


@given(st.lists(st.sampled_from(ORIENTATIONS[1:]), min_size=1, max_size=4))
def test_net_orientation(names: list[str]) -> None:
    image = noise(9, 6)
    constants = {
        "rotate_90": "ROTATE_90",
        "rotate_180": "ROTATE_180",
        "rotate_270": "ROTATE_270",
        "flip_horizontal": "FLIP_LEFT_RIGHT",
        "flip_vertical": "FLIP_TOP_BOTTOM",
        "transpose": "TRANSPOSE",
        "transverse": "TRANSVERSE",
    }
    code = "result = image" + "".join(f".transpose(Image.{constants[name]})" for name in names)
    net = "identity"
    for name in names:
        net = compose(net, name)
    observation = run(code, image)
    assert observation.orientation == net
    assert observation.tools == ((net,) if net != "identity" else ())
    assert observation.image is not None
    assert observation.image.tobytes() == orient(image, net).tobytes()


PLACES = [
    "result = image.rotate(90, expand=True)",
    "result = image.rotate(90)",
    "result = image.rotate(20, Image.BILINEAR, expand=True)",
    "result = image.rotate(-65, Image.BILINEAR)",
    "result = image.rotate(20, Image.BILINEAR, center=(50, 40), translate=(9, -7))",
    "result = image.crop((30, 20, 120, 80)).resize((200, 100), Image.BILINEAR)",
    "result = image.resize((60, 150), Image.BILINEAR).transpose(Image.TRANSVERSE)",
    "result = image.resize((64, 64), Image.BILINEAR, box=(20, 10, 150, 90))",
    "result = Image.fromarray(cv2.resize(np.array(image), (301, 77), interpolation=cv2.INTER_LINEAR))",
    "result = ImageOps.pad(image, (100, 130), color=(0, 0, 0))",
    "result = ImageOps.pad(image, (300, 100), centering=(0.2, 0.9))",
    "result = ImageOps.expand(image, (10, 20, 30, 40))",
    "result = image.crop((-20, 30, 500, 90)).rotate(180).crop((5, 5, 480, 60))",
    "result = Image.fromarray(cv2.transpose(np.array(image)[80:10:-1, 15:170]))",
]


@pytest.mark.parametrize("code", PLACES)
def test_frame_leads_to_where_the_pixel_was(code: str) -> None:
    image = ramp(200, 120)
    observation = run(code, image)
    assert observation.status == "ok", observation.text
    assert observation.image is not None
    assert observation.frame is not None
    pixels = np.asarray(observation.image).astype(float)
    seen = 0
    for y, x in np.random.default_rng(0).integers(0, pixels.shape[:2], (400, 2)):
        red, green, blue = pixels[y, x]
        if blue < 250:
            continue
        column, row = observation.frame.point(x + 0.5, y + 0.5)
        if not (2 < column < image.width - 2 and 2 < row < image.height - 2):
            continue
        seen += 1
        assert abs(red / 250 * image.width - column) < 1.5
        assert abs(green / 250 * image.height - row) < 1.5
    assert seen > 50


def test_another_image_has_no_place_in_the_chosen_one() -> None:
    images = [noise(9, 6), noise(6, 9)]
    code = "result = image_1.rotate(180)"
    other, chosen = ToolExecutor(lane="pillow").execute([ToolRequest(code, images, 0), ToolRequest(code, images, 1)])
    assert (other.frame, other.orientation, other.tools) == (None, None, ("rotate_180",))
    assert chosen.orientation == "rotate_180"
    assert other.image is not None
    assert other.image.tobytes() == images[1].rotate(180).tobytes()


def test_equal_calls_on_one_image_run_once() -> None:
    image, other = noise(20, 12), noise(20, 12)
    turn, crop = "result = image.rotate(90, expand=True)", "result = image.crop((0, 0, 5, 5))"
    calls = [(turn, image), (crop, image), ("# again\n" + turn, image), (turn, other)]
    with ToolExecutor(lane="pillow") as executor:
        seen = executor.execute([ToolRequest(code, [each]) for code, each in calls])
    alone = [run(code, each) for code, each in calls]
    assert [each.tools for each in seen] == [each.tools for each in alone]
    assert [np.asarray(each.image).tolist() for each in seen] == [np.asarray(each.image).tolist() for each in alone]
    assert seen[2].image is seen[0].image
    assert seen[3].image is not seen[0].image
