"""Turns images into patches for the vision tower, on its device.

Equal, bit for bit, to Hugging Face's Qwen2-VL image processor, which Qwen2.5-VL and Qwen3-VL share: the same resize to
the pixel budget, the same rounding to whole values after it, the same float32 steps. It is faster because bytes are
moved and cut, floats exist only in the result, and an image that is a tensor on the device never leaves it.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from cv_lightning.errors import ConversationError
from sandbox.images import as_rgb
from sandbox.lanes.tensor.images import TensorImage, stacked, to_pillow, to_tensor
from sandbox.lanes.tensor.resampling import resample_images
from sandbox.threads import count_cores, spread

Size = tuple[int, int]

#: Float32 values that are processed at once on a host: 1 MB.
_CACHED_VALUES = 1 << 18
#: Float32 values that are processed at once on an accelerator: 512 MB.
_BATCH_VALUES = 1 << 27
#: Threads are used for a result of at least this many values.
_MANY_VALUES = 1 << 21
#: Huge pages are used for a result of at least this many bytes.
_HUGE_BYTES = 1 << 23


class Patcher:
    """Resizes, rescales, normalizes and cuts images.

    Args:
        processor: Hugging Face's image processor, which gives the settings.
    """

    def __init__(self, processor: Any) -> None:
        self._patch, self._merge = int(processor.patch_size), int(processor.merge_size)
        self._frames = int(processor.temporal_patch_size)
        self._bounds = {"min_pixels": processor.size["shortest_edge"], "max_pixels": processor.size["longest_edge"]}
        self._resample = int(processor.resample)
        self._factor = float(processor.rescale_factor)
        values = (np.arange(256, dtype=np.float64) * self._factor).astype(np.float32)[:, None, None]
        mean, std = (np.array(each, dtype=np.float32) for each in (processor.image_mean, processor.image_std))
        self._tables = np.ascontiguousarray(((values - mean) / std)[:, 0].T)
        self._mean_C11 = torch.tensor(processor.image_mean, dtype=torch.float32).view(-1, 1, 1)
        self._std_C11 = torch.tensor(processor.image_std, dtype=torch.float32).view(-1, 1, 1)

    def target(self, size: Size) -> Size:
        """The size (width, height) to which an image of `size` is resized.

        Raises:
            ConversationError: One side is more than 200 times the other.
        """
        try:
            height, width = smart_resize(size[1], size[0], self._patch * self._merge, **self._bounds)
        except ValueError as error:
            raise ConversationError(f"An image of {size[0]} x {size[1]} pixels cannot be encoded: {error}.") from error
        return width, height

    def grid(self, size: Size) -> tuple[int, int, int]:
        """The grid (time, height, width) in patches of an image of `size` (width, height).

        Raises:
            ConversationError: One side is more than 200 times the other.
        """
        width, height = self.target(size)
        return 1, height // self._patch, width // self._patch

    def resized(self, image: Image.Image) -> Image.Image:
        """An image at the size of its grid: the pixels that the policy sees, resized by Pillow."""
        host = to_pillow(image.pixels) if isinstance(image, TensorImage) else as_rgb(image)
        size = self.target(image.size)
        return host if size == host.size else host.resize(size, self._resample)

    def __call__(self, images_N: Sequence[Image.Image], device: torch.device) -> tuple[Tensor, Tensor]:
        """Patches of images of any sizes.

        Args:
            images_N: RGB; a `TensorImage` on `device` is read in place, a Pillow image is copied there as bytes.
            device: The device of the patches.

        Returns:
            `pixel_values` [patches of all images, C * frames * P * P] float32 and `image_grid_thw` [N, 3], on `device`.

        Raises:
            ConversationError: One side of an image is more than 200 times the other.
        """
        grids = [self.grid(image.size) for image in images_N]
        starts = [0]
        for _, height, width in grids:
            starts.append(starts[-1] + height * width)
        values = _empty(starts[-1], 3 * self._frames * self._patch**2, device)
        rows_N = [values[start:end] for start, end in pairwise(starts)]
        if _is_host(device):
            self._write_all_on_host(images_N, rows_N)
        else:
            for places in _groups(images_N):
                resized = self._resized([images_N[place] for place in places], device)
                self._write(resized, [rows_N[place] for place in places])
        return values, torch.tensor(grids, dtype=torch.long, device=device).view(-1, 3)

    def _write_all_on_host(self, images_N: Sequence[Image.Image], rows_N: Sequence[Tensor]) -> None:
        """Use a thread for each image if there are many, else a thread for some rows of an image."""
        pairs = list(zip(images_N, rows_N, strict=True))
        is_large = sum(rows.numel() for rows in rows_N) >= _MANY_VALUES
        if is_large and len(pairs) >= count_cores() and not any(isinstance(i, ImageFile.ImageFile) for i in images_N):
            spread(lambda pair: self._write_on_host(*pair, in_threads=False), pairs)
            return
        for image, rows in pairs:
            self._write_on_host(image, rows, in_threads=is_large)

    def _write_on_host(self, image: Image.Image, rows: Tensor, *, in_threads: bool) -> None:
        """Resize, cut bytes, then normalize them by tables, a few rows at a time so that they stay in the cache."""
        pixels = np.asarray(self.resized(image))
        size = self.target(image.size)
        merge, patch, block = self._merge, self._patch, self._merge * self._patch
        high, wide = size[1] // block, size[0] // block
        parts = rows.numpy().reshape(high, wide * merge * merge, 3, self._frames, patch * patch)
        step = max(1, _CACHED_VALUES // (3 * block * size[0]))

        def write(start: int) -> None:
            n = min(step, high - start)
            for channel, plane in enumerate(cv2.split(pixels[start * block : (start + n) * block])):
                cut = plane.reshape(n, merge, patch, wide, merge, patch).transpose(0, 3, 1, 4, 2, 5)
                values = cv2.LUT(np.ascontiguousarray(cut).reshape(-1, patch * patch), self._tables[channel])
                parts[start : start + n, :, channel] = values.reshape(n, -1, 1, patch * patch)

        starts = range(0, high, step)
        if in_threads:
            spread(write, starts)
        else:
            for start in starts:
                write(start)

    def _resized(self, images: Sequence[Image.Image], device: torch.device) -> Tensor:
        """Images of one size and kind, resized to their grid, uint8 [N, 3, H, W]."""
        size = self.target(images[0].size)
        if isinstance(images[0], TensorImage):
            batch = stacked([to_tensor(image, device) for image in images])
            return batch if size == images[0].size else resample_images(batch, size, self._resample)
        return stacked([to_tensor(as_rgb(image).resize(size, self._resample), device) for image in images])

    def _write(self, images_NCHW: Tensor, rows_N: Sequence[Tensor]) -> None:
        """Normalize and cut images of one size; write the patches [h * w, C * frames * P * P] of each image."""
        n, channels, height, width = images_NCHW.shape
        merge, patch = self._merge, self._patch
        high, wide = height // (patch * merge), width // (patch * merge)
        mean_C11, std_C11 = self._mean_C11.to(images_NCHW.device), self._std_C11.to(images_NCHW.device)
        # Axes: row and column of a block of merged patches, of a patch in it, then channel, row and column of a pixel.
        cut = images_NCHW.reshape(n, channels, high, merge, patch, wide, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
        step = max(1, _BATCH_VALUES // images_NCHW[0].numel())
        for start in range(0, n, step):
            values = self._rescaled(cut[start : start + step].contiguous()).sub_(mean_C11).div_(std_C11).unsqueeze(6)
            for image, rows in zip(values, rows_N[start : start + step], strict=True):
                shape = (*image.shape[:5], self._frames, patch, patch)
                rows.view(shape).copy_(image.expand(shape))

    def _rescaled(self, pixels: Tensor) -> Tensor:
        """Hugging Face's float64 product, as float32; for 1 / 255 the float32 quotient is the same."""
        return pixels.float().div_(255) if self._factor == 1 / 255 else (pixels.double() * self._factor).float()


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


def _groups(images: Sequence[Image.Image]) -> list[list[int]]:
    """Indices of images that are processed together: images of one size and kind."""
    groups: dict[tuple[Size, bool], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault((image.size, isinstance(image, TensorImage)), []).append(place)
    return list(groups.values())


#: Memory of the last results on a host; a new result reuses it if no tensor holds it any more.
_BUFFERS: list[mmap.mmap] = []
_BUFFERS_LOCK = threading.Lock()
#: Maximum number of kept buffers, and maximum bytes of a kept buffer.
_MAX_BUFFERS, _MAX_KEPT_BYTES = 2, 1 << 30
#: References to a buffer that no tensor holds: the list's, the loop's and the call's own.
_FREE = 3


def _empty(height: int, width: int, device: torch.device) -> Tensor:
    """Float32 [height, width]; a large one on a Linux host uses huge pages, which fault in faster, or old memory."""
    n_bytes = 4 * height * width
    if not _is_host(device) or n_bytes < _HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(height, width, dtype=torch.float32, device=device)
    with _BUFFERS_LOCK:
        for memory in _BUFFERS:
            if n_bytes <= len(memory) <= 4 * n_bytes and sys.getrefcount(memory) == _FREE:
                break
        else:
            memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
            if n_bytes <= _MAX_KEPT_BYTES:
                _BUFFERS[:] = [*_BUFFERS, memory][-_MAX_BUFFERS:]
        return torch.frombuffer(memory, dtype=torch.float32, count=height * width).view(height, width)
