"""Images whose pixels are a tensor, and conversion between Pillow and a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sandbox.images import as_rgb

#: Odd multipliers of a mixing function (SplitMix64's, as signed numbers), and the 64-bit golden ratio.
_MIX = (-4658895280553007687, -7723592293110705685)
_GOLDEN = -7046029254386353131


class TensorImage(Image.Image):
    """A Pillow RGB image whose pixels are on a device.

    The pixels are copied to the host when Pillow first reads them, and the copy is kept. Do not change the image in
    place: the tensor would not change with it.

    Attributes:
        pixels: uint8 [3, H, W].
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"Expected a uint8 tensor [3, H, W] but got {pixels.dtype} {list(pixels.shape)}")
        super().__init__()
        self.pixels = pixels
        self._mode = "RGB"
        self._size = (int(pixels.shape[2]), int(pixels.shape[1]))

    @property
    def is_on_host(self) -> bool:
        """Whether the pixels have been copied to the host."""
        return self._im is not None

    @property
    def im(self) -> Any:
        """Pillow's own image, made on first access."""
        if self._im is None:
            self._im = to_pillow(self.pixels).im
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    def content_key(self) -> bytes:
        """The identity of its pixels, see `sandbox.images.content_key`: only 128 bits and the size leave the device.

        Two sums of mixed 8-byte words, each mixed with its position. They tell images apart that are not made to
        collide.
        """
        flat = self.pixels.reshape(-1)
        words = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(torch.int64)
        places = torch.arange(len(words), device=words.device)
        sums = []
        for key in (1, 2):
            mixed = words ^ (places * _GOLDEN + key)
            for shift, multiplier in zip((30, 27), _MIX, strict=True):
                mixed = (mixed ^ (mixed >> shift)) * multiplier
            sums.append((mixed ^ (mixed >> 31)).sum())
        digest: bytes = torch.stack(sums).cpu().numpy().tobytes()
        return digest + repr(self.size).encode()

    def __reduce__(self) -> tuple[Callable[..., Image.Image], tuple[str, tuple[int, int], bytes]]:
        return Image.frombytes, ("RGB", self.size, self.tobytes())


def to_pillow(pixels: Tensor) -> Image.Image:
    """Convert uint8 [3, H, W] or [1, H, W] to a Pillow image of mode RGB or L."""
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def to_tensor(image: Image.Image, device: torch.device) -> Tensor:
    """Convert an image to uint8 [3, H, W] on a device; a tensor that is already there is not copied."""
    if isinstance(image, TensorImage):
        return image.pixels.to(device)
    # The bytes are transferred in their memory order, and rearranged into planes on the device.
    rows = torch.from_numpy(np.array(as_rgb(image))).to(device)
    return rows.permute(2, 0, 1).contiguous()


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack images [C, H, W] of one shape to [N, C, H, W]; neighbors in one batch are not copied."""
    first = images[0]
    step = first.numel()
    is_batch = first.is_contiguous() and all(
        image.is_contiguous()
        and image.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and image.storage_offset() == first.storage_offset() + place * step
        for place, image in enumerate(images)
    )
    if is_batch:
        return first.as_strided((len(images), *first.shape), (step, *first.stride()))
    return torch.stack(list(images))
