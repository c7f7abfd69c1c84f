"""Natural corruptions of images at five severities, seeded, on tensors of any device.

Kinds and parameters are from Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations" (arXiv 1903.12261); its blur radii are in pixels, for images of 224 pixels. Results are rounded; the
original truncates. Images of the same size form one batch for the operations of the tensor lane
(`sandbox.lanes.tensor`), with the precision of that lane. Random numbers are drawn on the CPU, so an image, a name, a
severity and a seed give the same corruption on every device and in every batch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from cv_lightning.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: The severities, weakest first.
SEVERITIES = (1, 2, 3, 4, 5)

#: Parameters of each corruption at severities 1 to 5.
_FIGURES: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, for values in [0, 1]
    "shot_noise": (60, 25, 12, 5, 3),  # photons of a white value
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of values that become 0 or 255
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # radius of the disk, sigma of its edge
    "gaussian_blur": (1, 2, 3, 4, 6),  # sigma in pixels
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # half the length of the trail, its sigma
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # remaining share of the distance to the mean
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the HSV value, in [0, 1]
    "jpeg": (25, 18, 15, 10, 7),  # quality
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # sides of the small image, as a share of the original
}

#: Names of the corruptions.
CORRUPTIONS: tuple[str, ...] = tuple(_FIGURES)

#: Maximum number of float32 values to process at once: on a CPU as many as its cache holds, on an accelerator 256 MiB.
_HOST_VALUES, _MAX_VALUES = 1 << 17, 1 << 26


@overload
def corrupt(images: Tensor, name: str, severity: int, seed: int | Sequence[int]) -> Tensor: ...
@overload
def corrupt(
    images: Sequence[Image.Image], name: str, severity: int, seed: int | Sequence[int]
) -> list[Image.Image]: ...
def corrupt(
    images: Tensor | Sequence[Image.Image], name: str, severity: int, seed: int | Sequence[int]
) -> Tensor | list[Image.Image]:
    """Corrupt a batch of images.

    Args:
        images: uint8 [N, 3, H, W] on any device, or Pillow images of any sizes.
        name: One of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        seed: One seed per image, or one for the batch: image n then has `seed + n`.

    Returns:
        Images of the same type and sizes as `images`, on the same device; Pillow images are RGB. The corruption of an
        image depends only on its own seed, not on the rest of the batch.

    Raises:
        ConfigError: The name or the severity is unknown.
        ValueError: The tensor is not a batch of uint8 RGB images, or the numbers of seeds and images differ.
    """
    import torch

    from sandbox.lanes.tensor.images import to_pillow, to_tensor

    _check(name, severity)
    seeds = [seed + index for index in range(len(images))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(images):
        raise ValueError(f"seed: expected one for each of {len(images)} images, got {len(seeds)}")
    if isinstance(images, torch.Tensor):
        return _corrupt_tensor(images, name, severity, seeds)
    places_of_size: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        places_of_size.setdefault(image.size, []).append(place)
    results: dict[int, Image.Image] = {}
    for places in places_of_size.values():
        batch = torch.stack([to_tensor(images[place], torch.device("cpu")) for place in places])
        corrupted = _corrupt_tensor(batch, name, severity, [seeds[place] for place in places])
        results.update(zip(places, map(to_pillow, corrupted), strict=True))
    return [results[place] for place in range(len(images))]


def _check(name: str, severity: int) -> None:
    if name not in _FIGURES:
        raise ConfigError(f"corruption: expected one of {', '.join(CORRUPTIONS)}, got {name!r}.")
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise ConfigError(f"corruption {name!r}: expected a severity from 1 to 5, got {severity!r}.")


def _corrupt_tensor(images_NCHW: Tensor, name: str, severity: int, seeds: Sequence[int]) -> Tensor:
    import torch

    from sandbox.lanes.tensor.batch import precise

    if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] != 3:
        got = f"{images_NCHW.dtype} {list(images_NCHW.shape)}"
        raise ValueError(f"images: expected a uint8 tensor [N, 3, H, W], got {got}")
    figure, key = _FIGURES[name][severity - 1], CORRUPTIONS.index(name)
    most = _HOST_VALUES if images_NCHW.device.type == "cpu" else _MAX_VALUES
    n_images = max(1, most // max(1, images_NCHW[:1].numel()))
    parts = []
    for start in range(0, len(images_NCHW), n_images):
        part = images_NCHW[start : start + n_images]
        # Negative seeds are allowed elsewhere, but numpy needs nonnegative seeds.
        keys = [[value % (1 << 64), key, severity] for value in seeds[start : start + n_images]]
        with precise(images_NCHW.device):
            parts.append(_KINDS[name](part, figure, [np.random.default_rng(words) for words in keys]))
    return torch.cat(parts) if parts else images_NCHW.clone()


_Generators = Sequence[np.random.Generator]


def _unit(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.float() / 255


def _bytes(values_NCHW: Tensor) -> Tensor:
    from sandbox.lanes.tensor.values import to_bytes

    return to_bytes(values_NCHW.clamp(0, 1) * 255)


def _drawn(images_NCHW: Tensor, generators: _Generators, draw: Callable[[np.random.Generator, Any], Any]) -> Tensor:
    """The results of `draw` for each image's generator and shape, as float32 on the images' device."""
    import torch

    shape = tuple(images_NCHW.shape[1:])
    rows = [torch.from_numpy(draw(generator, shape).astype(np.float32)) for generator in generators]
    return torch.stack(rows).to(images_NCHW.device)


def _gaussian_noise(images_NCHW: Tensor, figure: float, generators: _Generators) -> Tensor:
    noise_NCHW = _drawn(images_NCHW, generators, lambda generator, shape: generator.standard_normal(shape, np.float32))
    return _bytes(_unit(images_NCHW) + figure * noise_NCHW)


def _shot_noise(images_NCHW: Tensor, figure: float, generators: _Generators) -> Tensor:
    import torch

    rows = [
        generator.poisson(image.cpu().numpy() * (figure / 255)) / figure
        for generator, image in zip(generators, images_NCHW, strict=True)
    ]
    return _bytes(torch.stack([torch.from_numpy(row.astype(np.float32)) for row in rows]).to(images_NCHW.device))


def _impulse_noise(images_NCHW: Tensor, figure: float, generators: _Generators) -> Tensor:
    uniform_NCHW = _drawn(images_NCHW, generators, lambda generator, shape: generator.random(shape, np.float32))
    corrupted = images_NCHW.masked_fill(uniform_NCHW < figure, 255)
    return corrupted.masked_fill(uniform_NCHW < figure / 2, 0)


def _defocus_blur(images_NCHW: Tensor, figure: tuple[int, float], _: _Generators) -> Tensor:
    from sandbox.lanes.tensor.filters import bordered, correlated

    kernel = _disk(*figure)
    margin = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    return _bytes(correlated(bordered(_unit(images_NCHW), margin, margin, "reflect"), kernel))


def _disk(radius: int, edge_sigma: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The kernel of an out-of-focus lens: a disk with a smoothed edge."""
    import cv2

    reach, side = max(8, radius), 3 if radius <= 8 else 5
    xs, ys = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disk = (xs**2 + ys**2 <= radius**2).astype(np.float32)
    kernel: np.ndarray[Any, np.dtype[np.float32]] = cv2.GaussianBlur(disk / disk.sum(), (side, side), edge_sigma)
    return kernel


def _gaussian_blur(images_NCHW: Tensor, figure: float, _: _Generators) -> Tensor:
    import kornia.filters

    side = 2 * int(4 * figure + 0.5) + 1
    blurred = kornia.filters.gaussian_blur2d(_unit(images_NCHW), (side, side), (figure, figure), "replicate")
    return _bytes(blurred)


def _motion_blur(images_NCHW: Tensor, figure: tuple[int, float], generators: _Generators) -> Tensor:
    """A trail on one side of every pixel, as in ImageMagick: Gaussian weights at whole pixels along a line."""
    import torch

    from sandbox.lanes.tensor.filters import bordered

    (radius, sigma), (height, width) = figure, images_NCHW.shape[2:]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    reach = 2 * radius
    padded_NCHW = bordered(_unit(images_NCHW), (reach, reach), (0, reach), "edge")
    results = []
    for padded_CHW, generator in zip(padded_NCHW, generators, strict=True):
        angle = math.radians(generator.uniform(-45, 45))
        total_CHW = torch.zeros_like(padded_CHW[:, :height, :width])
        for step, weight in enumerate(weights.tolist()):
            down, right = math.ceil(step * math.sin(angle) - 0.5), math.ceil(step * math.cos(angle) - 0.5)
            top = reach + down
            total_CHW += weight * padded_CHW[:, top : top + height, right : right + width]
        results.append(total_CHW)
    return _bytes(torch.stack(results))


def _contrast(images_NCHW: Tensor, figure: float, _: _Generators) -> Tensor:
    values = _unit(images_NCHW)
    means = values.mean((2, 3), keepdim=True)
    return _bytes((values - means) * figure + means)


def _brightness(images_NCHW: Tensor, figure: float, _: _Generators) -> Tensor:
    import kornia.color
    import torch

    hue, saturation, value = kornia.color.rgb_to_hsv(_unit(images_NCHW)).unbind(1)
    return _bytes(kornia.color.hsv_to_rgb(torch.stack([hue, saturation, (value + figure).clamp(0, 1)], 1)))


def _jpeg(images_NCHW: Tensor, figure: int, _: _Generators) -> Tensor:
    """Compress with libjpeg on the CPU: Kornia's differentiable codec gives pixels that differ from those of files."""
    import torch

    from sandbox.lanes.tensor.images import to_pillow, to_tensor

    results = []
    for image_CHW in images_NCHW:
        buffer = io.BytesIO()
        to_pillow(image_CHW).save(buffer, "JPEG", quality=figure)
        results.append(to_tensor(Image.open(buffer), images_NCHW.device))
    return torch.stack(results)


def _pixelate(images_NCHW: Tensor, figure: float, _: _Generators) -> Tensor:
    from sandbox.lanes.tensor.resampling import resample_images

    height, width = images_NCHW.shape[2:]
    box = int(Image.Resampling.BOX)
    small = resample_images(images_NCHW, (max(1, int(width * figure)), max(1, int(height * figure))), box)
    return resample_images(small, (width, height), box)


_KINDS: dict[str, Callable[[Tensor, Any, _Generators], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
