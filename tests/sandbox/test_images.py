"""Images as lanes take them: plain RGB, an identity, and the limits of a result."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sandbox import Limits
from sandbox.images import Budget, as_rgb, check_size, content_key, copy_into, view

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def test_a_plain_image_is_itself_and_others_lose_what_is_no_color() -> None:
    plain = Image.fromarray(PIXELS)
    assert as_rgb(plain) is plain
    transparent = plain.convert("RGBA")
    transparent.putalpha(7)
    transparent.info["exif"] = b"turned"
    assert (as_rgb(transparent).tobytes(), as_rgb(transparent).info) == (plain.tobytes(), {})
    assert transparent.info == {"exif": b"turned"}


def test_sixteen_bits_are_scaled_not_cut() -> None:
    image = Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16))
    assert [as_rgb(image).getpixel((x, 0)) for x in range(4)] == [(value,) * 3 for value in (0, 1, 128, 255)]


def test_an_image_is_written_and_seen_without_a_copy() -> None:
    buffer = bytearray(4 * 5 * 4)
    copy_into(buffer, Image.fromarray(PIXELS))
    seen = view(buffer, (5, 4))
    assert (seen.mode, seen.size, seen.tobytes()) == ("RGB", (5, 4), PIXELS.tobytes())
    buffer[0] ^= 255
    assert seen.getpixel((0, 0)) == (PIXELS[0, 0, 0] ^ 255, *PIXELS[0, 0, 1:])


def test_equal_pixels_of_another_size_or_mode_are_another_image() -> None:
    image = Image.fromarray(PIXELS)
    assert content_key(image) == content_key(image.copy())
    assert content_key(image) != content_key(Image.frombytes("RGB", (4, 5), PIXELS.tobytes()))
    assert content_key(Image.new("L", (3, 1))) != content_key(Image.new("RGB", (1, 1)))


@pytest.mark.parametrize(
    ("size", "part"),
    [((0, 4), "no pixels"), ((1000, 1001), "too large"), ((200, 1), "too thin"), ((1, 200), "less than 200 times")],
)
def test_a_result_beyond_the_limits_is_told_why(size: tuple[int, int], part: str) -> None:
    assert part in str(check_size(size, Limits(result_megapixels=1)))


def test_results_at_the_limits_are_taken() -> None:
    assert check_size((1000, 1000), Limits(result_megapixels=1)) is None
    assert check_size((199, 1), Limits()) is None


def test_a_batch_spends_its_bytes_once() -> None:
    budget = Budget(Limits(batch_mb=1))
    assert budget.refuse((512, 256)) is None
    assert budget.refuse((512, 257), held=(512, 129)) is None  # half of a half: 256 KB are left
    assert "512x129 pixels" in str(budget.refuse((512, 129)))
    assert budget.refuse((512, 128)) is None
    assert budget.refuse((9, 9), held=(9, 9)) is None
    assert budget.refuse((1, 1)) is not None
