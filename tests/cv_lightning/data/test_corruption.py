"""Corruptions are seeded, independent of the batch, stronger with severity, and as strong as published."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.corruption import CORRUPTIONS, SEVERITIES, corrupt
from cv_lightning.errors import ConfigError


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Flat blocks of color with edges; noise alone would hide the effect of a blur."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def corrupt_image(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    return corrupt([image], name, severity, seed)[0]


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_grows_with_its_severity_and_is_seeded(name: str) -> None:
    image = picture()
    changed = [corrupt_image(image, name, severity, 7) for severity in SEVERITIES]
    assert all(result.size == image.size and result.mode == "RGB" for result in changed)
    distances = [np.abs(values(result) - values(image)).mean() for result in changed]
    assert distances[0] > 0
    if name not in {"pixelate", "motion_blur"}:  # blocks or trails may align with the edges of this picture
        assert distances == sorted(distances)
    assert distances[-1] > distances[0]
    again = corrupt_image(image, name, 3, 7)
    assert again.tobytes() == changed[2].tobytes()
    is_random = name.endswith("noise") or name == "motion_blur"
    assert (corrupt_image(image, name, 3, 8).tobytes() != changed[2].tobytes()) == is_random


@settings(max_examples=10)
@given(st.sampled_from(CORRUPTIONS), st.sampled_from(SEVERITIES), st.integers(1, 40), st.integers(1, 40))
def test_a_batch_is_its_images(name: str, severity: int, width: int, height: int) -> None:
    images = [picture(width, height, seed) for seed in range(3)] + [picture(17, 9)]
    batch = corrupt(images, name, severity, 5)
    alone = [corrupt_image(image, name, severity, 5 + place) for place, image in enumerate(images)]
    tensors = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images[:3]])
    stacked = corrupt(tensors, name, severity, [5, 6, 7])
    assert stacked.dtype == torch.uint8
    for place, (one, other) in enumerate(zip(batch, alone, strict=True)):
        assert one.size == images[place].size
        assert np.abs(values(one) - values(other)).max() <= 1  # the order of a sum may depend on the batch
        if place < 3:
            assert np.abs(stacked[place].permute(1, 2, 0).numpy().astype(float) - values(one)).max() <= 1


def test_noise_has_the_strength_that_was_published() -> None:
    gray = Image.new("RGB", (300, 300), (128, 128, 128))
    noise = values(corrupt_image(gray, "gaussian_noise", 1, 0)) / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.002)
    shot = values(corrupt_image(gray, "shot_noise", 1, 0)) / 255
    assert shot.std() == pytest.approx(math.sqrt(128 / 255 / 60), rel=0.02)
    salted = values(corrupt_image(gray, "impulse_noise", 5, 0))
    assert (salted == 255).mean() == pytest.approx(0.135, rel=0.05)
    assert (salted == 0).mean() == pytest.approx(0.135, rel=0.05)
    assert ((salted == 0) | (salted == 255) | (salted == 128)).all()


def test_blurs_against_opencv() -> None:
    image = picture()
    pixels = values(image) / 255
    sides = 2 * 8 + 1
    oracle = cv2.GaussianBlur(pixels, (sides, sides), 2, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(values(corrupt_image(image, "gaussian_blur", 2, 0)) - oracle * 255).max() <= 1
    xs, ys = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    disk = (xs**2 + ys**2 <= 16).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3), 0.5)
    oracle = cv2.filter2D(pixels, -1, kernel)
    assert np.abs(values(corrupt_image(image, "defocus_blur", 2, 0)) - oracle * 255).max() <= 1


def test_motion_blur_leaves_a_trail_on_one_side() -> None:
    point = Image.new("RGB", (91, 91))
    point.putpixel((45, 45), (255, 255, 255))
    trail = values(corrupt_image(point, "motion_blur", 5, 1))[..., 0]
    xs = np.nonzero(trail)[1]
    assert len(xs) > 30
    assert xs.max() <= 45
    assert xs.min() < 45 - 20
    assert trail.sum() == pytest.approx(255, rel=0.1)


def test_contrast_and_brightness_by_hand() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (0, 100, 200))
    image.putpixel((1, 0), (100, 100, 0))
    flat = values(corrupt_image(image, "contrast", 1, 0))
    assert flat[0].tolist() == [[30, 100, 140], [70, 100, 60]]
    bright = values(corrupt_image(image, "brightness", 1, 0))
    # HSV with its value raised by 25.5: every channel grows by the same factor.
    np.testing.assert_allclose(bright[0, 0], [0, 100 * 225.5 / 200, 225.5], atol=1)
    np.testing.assert_allclose(bright[0, 1], [125.5, 125.5, 0], atol=1)


def test_jpeg_and_pixelate_are_pillows() -> None:
    image = picture()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=18)
    assert corrupt_image(image, "jpeg", 2, 0).tobytes() == Image.open(buffer).tobytes()
    small = image.resize((48, 32), Image.Resampling.BOX)
    assert corrupt_image(image, "pixelate", 2, 0).tobytes() == small.resize((96, 64), Image.Resampling.BOX).tobytes()


def test_bad_arguments_are_named() -> None:
    image = picture()
    with pytest.raises(ConfigError, match=r"corruption: expected one of gaussian_noise.*got 'fog'"):
        corrupt_image(image, "fog", 1, 0)
    with pytest.raises(ConfigError, match="1 to 5, got 6"):
        corrupt_image(image, "jpeg", 6, 0)
    with pytest.raises(ValueError, match=r"uint8 tensor \[N, 3, H, W\]"):
        corrupt(torch.zeros(1, 3, 4, 4), "jpeg", 1, 0)
    with pytest.raises(ValueError, match="seed: expected one for each of 2 images, got 1"):
        corrupt([image, image], "jpeg", 1, [0])
    assert corrupt([], "jpeg", 1, 0) == []
    assert corrupt(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "jpeg", 1, 0).shape == (0, 3, 4, 4)
