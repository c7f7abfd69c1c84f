"""Tables and colors by hand."""

from __future__ import annotations

from typing import Any

import cv2
import pytest
import torch
from PIL import Image

from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.lanes.tensor.table import kind_of
from sandbox.lanes.tensor.values import blend
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from tests.sandbox.lanes.tensor.agreement import as_tensor, noise, picture


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("cv2.RGB2HSV", (255, 0, 0), (0, 255, 255)),
        ("cv2.RGB2HSV", (0, 0, 200), (120, 255, 200)),
        ("cv2.HSV2RGB", (60, 255, 255), (0, 255, 0)),
        ("cv2.RGB2HLS", (255, 255, 255), (0, 255, 0)),
        ("cv2.RGB2LAB", (255, 255, 255), (255, 128, 128)),
        ("cv2.BGR2LAB", (0, 0, 0), (0, 128, 128)),
        ("cv2.RGB2YCrCb", (128, 128, 128), (128, 128, 128)),
        ("cv2.YCrCb2BGR", (76, 255, 85), (0, 0, 254)),
        ("cv2.RGB2YUV", (0, 0, 0), (0, 128, 128)),
        ("cv2.RGB2GRAY", (255, 0, 0), (76,)),
        ("cv2.BGR2GRAY", (255, 0, 0), (29,)),
    ],
)
def test_colors(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    (kind,) = KINDS[name]
    pixel = torch.tensor(before, dtype=torch.uint8)[None, :, None, None]
    assert kind.call(pixel, [()]).flatten().tolist() == list(after)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ImageOps.autocontrast", [(0, None, None, False), (7, 3, None, True)]),
        ("ImageEnhance.Contrast", [(0.3,), (4.0,)]),
        ("cv2.threshold", [(0, 200, 8), (99, 255, 9)]),
        ("cv2.equalizeHist", [(), ()]),
    ],
)
def test_each_image_of_a_batch_has_its_own_table(name: str, values: Any) -> None:
    kind = KINDS[name][-1]
    mode = "L" if name.startswith("cv2") else "RGB"
    images = [image.convert(mode) for image in (noise(31, 20), picture(31, 20))]
    found = kind.call(torch.stack([as_tensor(image, "cpu") for image in images]), values)
    for one, image, each in zip(found, images, values, strict=True):
        assert torch.equal(one, as_tensor(OPERATIONS[name].call(image, each), "cpu"))


def test_a_blend_goes_past_the_image_and_cuts_off() -> None:
    black, gray = (torch.full((2, 1, 1, 1), value, dtype=torch.uint8) for value in (0, 101))
    assert blend(black, gray, [(0.5,), (3.0,)]).flatten().tolist() == [50, 255]


def test_gray_is_pillows_for_all_corners_of_the_cube() -> None:
    image = Image.new("RGB", (256, 8))
    for bits in range(8):
        for value in range(256):
            image.putpixel((value, bits), tuple(value if bits >> channel & 1 else 255 - value for channel in range(3)))
    (kind,) = KINDS["Image.convert"]
    assert torch.equal(kind.call(as_tensor(image, "cpu")[None], [("L",)])[0], as_tensor(image.convert("L"), "cpu"))


def test_a_limit_of_otsus_is_that_of_a_gray_image() -> None:
    """OpenCV has no such limit for a color image: it raises, and the Pillow lane reports the error."""
    assert isinstance(kind_of("cv2.threshold", (0, 255, 8), State((4, 4), "L"), "exact"), TensorKind)
    assert isinstance(kind_of("cv2.threshold", (99, 255, 1), State((4, 4), "RGB"), "exact"), TensorKind)
    assert "Otsu" in str(kind_of("cv2.threshold", (0, 255, 8), State((4, 4), "RGB"), "exact"))
    with pytest.raises(cv2.error):
        OPERATIONS["cv2.threshold"].call(noise(4, 4), (0, 255, 8))
