"""A request that cannot run at all is reported before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from sandbox import Limits, ToolRequest
from sandbox.requests import check_images, refuse

IMAGE = Image.new("RGB", (3, 2))


@pytest.mark.parametrize(
    ("code", "images", "index", "part"),
    [
        (None, [IMAGE], 0, "must be text, not NoneType"),
        (" \n", [IMAGE], 0, "The code is empty"),
        ("x" * 11, [IMAGE], 0, "11 characters; at most 10"),
        ("x\x00", [IMAGE], 0, "null byte"),
        ("x\ud800", [IMAGE], 0, "not valid Unicode"),
        ("x", [], 0, "no image"),
        ("x", [IMAGE], 1, "image_index is 1; valid are 0 to 0"),
        ("x", [IMAGE], -1, "image_index is -1"),
        ("x", [IMAGE], True, "image_index is True"),
        ("x", ["image.png"], 0, "must be Pillow images"),
        ("x", [IMAGE, Image.new("RGB", (0, 2))], 0, "Image 1 has no pixels"),
    ],
)
def test_a_bad_request_is_named(code: Any, images: Any, index: Any, part: str) -> None:
    assert part in str(refuse(ToolRequest(code, images, index), Limits(code_chars=10)))


def test_a_good_request_is_not_refused() -> None:
    assert refuse(ToolRequest("größer", [IMAGE, IMAGE], 1), Limits()) is None


def test_a_broken_file_raises_before_anything_is_sent(tmp_path: Any) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as broken, pytest.raises(OSError, match="truncated"):
        check_images(ToolRequest("x", [IMAGE, broken]))
