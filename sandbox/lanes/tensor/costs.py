"""Measured costs of calls in the Pillow lane and in the tensor lane: which is cheaper for a batch?

A call costs a fixed time and a time per pixel. The tensor lane pays the fixed time once for each group of images of one
shape. The table of the CPU is measured by `python benchmarks/tool_execution.py --costs`; that of an accelerator is
measured when an executor first needs it, because machines differ. Nothing here imports torch before it measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from sandbox.geometry import Size
from sandbox.operations.operation import Values
from sandbox.operations.table import OPERATIONS

#: The operation whose costs stand in for those of another one.
_LIKE: dict[str, str] = {
    "Image.crop": "orient",
    "ImageOps.expand": "orient",
    "ImageOps.pad": "Image.resize",
    "ImageOps.autocontrast": "ImageOps.equalize",
    "cv2.equalizeHist": "ImageOps.equalize",
    "ImageEnhance.Color": "ImageEnhance.Contrast",
    "ImageEnhance.Sharpness": "ImageFilter.SHARPEN",
    "ImageFilter.BoxBlur": "ImageFilter.GaussianBlur",
    "ImageFilter.UnsharpMask": "ImageFilter.GaussianBlur",
    "ImageFilter.MinFilter": "ImageFilter.MaxFilter",
    "Image.paste": "orient",
    "cv2.copyMakeBorder": "orient",
    "Image.getchannel": "orient",
    "ImageFilter.RankFilter": "ImageFilter.MedianFilter",
    **dict.fromkeys(("cv2.erode", "cv2.dilate", "cv2.morphologyEx", "cv2.filter2D"), "cv2.erode"),
    **dict.fromkeys(("cv2.RGB2GRAY", "cv2.BGR2GRAY", "cv2.GRAY2RGB", "cv2.RGB2BGR", "cv2.bitwise_not"), "cv2"),
    **dict.fromkeys(("cv2.LUT", "cv2.convertScaleAbs", "cv2.threshold"), "cv2.table"),
}

#: Measured calls: row of the table -> (operation, values).
MEASURED: dict[str, tuple[str, Values]] = {
    "orient": ("orient", ("rotate_90",)),
    "Image.rotate": ("Image.rotate", (10, 2, False, None, None, None)),
    "Image.resize": ("Image.resize", ((200, 200), None, None, None)),
    "Image.convert": ("Image.convert", ("L",)),
    "ImageEnhance.Brightness": ("ImageEnhance.Brightness", (1.5,)),
    "ImageEnhance.Contrast": ("ImageEnhance.Contrast", (1.5,)),
    "ImageOps.equalize": ("ImageOps.equalize", ()),
    "ImageOps.invert": ("ImageOps.invert", ()),
    "ImageFilter.SHARPEN": ("ImageFilter.SHARPEN", ()),
    "ImageFilter.GaussianBlur": ("ImageFilter.GaussianBlur", (3,)),
    "ImageFilter.MaxFilter": ("ImageFilter.MaxFilter", (3,)),
    "ImageFilter.MedianFilter": ("ImageFilter.MedianFilter", (3,)),
    "cv2.medianBlur": ("cv2.medianBlur", (3,)),
    "cv2.erode": ("cv2.erode", (None, 1)),
    "cv2": ("cv2.RGB2GRAY", ()),
    "cv2.table": ("cv2.convertScaleAbs", (1.2, 3)),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of a call and of each pixel of its image."""

    call_s: float
    pixel_s: float

    def of(self, n_calls: int, n_pixels: int) -> float:
        """Seconds of some calls on so many pixels in all."""
        return n_calls * self.call_s + n_pixels * self.pixel_s


@dataclass(frozen=True)
class Costs:
    """A measured table.

    Attributes:
        pillow: One call on one image, by the names of `MEASURED`.
        tensor: One call on a group of images of one shape; pixels are those of all of them.
        upload: Taking Pillow images to the device.
    """

    pillow: Mapping[str, Cost]
    tensor: Mapping[str, Cost]
    upload: Cost

    def is_tensor_cheaper(self, names: Sequence[str], size: Size, n_images: int, n_uploads: int) -> bool:
        """Whether a group of equal chains of operations is cheaper as tensors.

        Args:
            names: The operations, all of them known to the tensor lane.
            size: (width, height) of the images.
            n_images: How many chains there are.
            n_uploads: How many of their images are not on the device yet.
        """
        n_pixels = size[0] * size[1]
        pillow = sum(self.pillow[_row(name)].of(n_images, n_images * n_pixels) for name in names)
        tensor = sum(self.tensor[_row(name)].of(1, n_images * n_pixels) for name in names)
        return tensor + self.upload.of(n_uploads, n_uploads * n_pixels) < pillow


def _row(name: str) -> str:
    like = _LIKE.get(name, name)
    if like in MEASURED:
        return like
    return "ImageFilter.SHARPEN" if name.startswith("ImageFilter.") else "ImageEnhance.Brightness"


#: Sides of the square images that are measured.
_SIDES = (128, 768)
_N_IMAGES = 4


def measure(device: str, repeats: int = 5) -> Costs:
    """Measure both lanes on this machine: about a second on an accelerator, some seconds on a CPU."""
    import torch

    from sandbox.lanes.tensor.batch import check_device
    from sandbox.lanes.tensor.images import to_tensor
    from sandbox.lanes.tensor.table import TENSOR_OPERATIONS

    where = check_device(device)

    def timed(call: Callable[[], object]) -> float:
        call()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            times.append(time.perf_counter() - start)
        return min(times)

    images = [_noise(side) for side in _SIDES]
    batches = [torch.stack([to_tensor(image, where)] * _N_IMAGES) for image in images]
    pillow, tensor = {}, {}
    for row, (name, values) in MEASURED.items():
        pillow[row] = _fitted([timed(partial(OPERATIONS[name].call, image, values)) for image in images], 1)
        each = [values] * _N_IMAGES
        tensor[row] = _fitted(
            [timed(partial(TENSOR_OPERATIONS[name].call, batch, each)) for batch in batches], _N_IMAGES
        )
    upload = _fitted([timed(partial(to_tensor, image, where)) for image in images], 1)
    return Costs(pillow, tensor, upload)


def _noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _fitted(seconds: Sequence[float], n_images: int) -> Cost:
    small, large = (side * side * n_images for side in _SIDES)
    pixel_s = max(0.0, (seconds[1] - seconds[0]) / (large - small))
    return Cost(max(0.0, seconds[0] - pixel_s * small), pixel_s)


#: Of one core of an AMD EPYC (Zen 4), which other programs used as well: microseconds of a call and nanoseconds of a
#: pixel, first in the Pillow lane, then as tensors.
_CPU_ROWS: dict[str, tuple[float, float, float, float]] = {
    "orient": (0, 1.05, 0, 6.49),
    "Image.rotate": (0, 66.5, 0, 840),
    "Image.resize": (126, 20.6, 377, 38.2),
    "Image.convert": (5.16, 0.468, 0, 8.91),
    "ImageEnhance.Brightness": (5.51, 2.4, 1.54, 4.25),
    "ImageEnhance.Contrast": (30.1, 3.98, 0, 34.5),
    "ImageOps.equalize": (112, 2.11, 0, 17.2),
    "ImageOps.invert": (48.3, 1.09, 0, 0.288),
    "ImageFilter.SHARPEN": (0, 51.3, 0, 53.6),
    "ImageFilter.GaussianBlur": (0, 71.9, 0, 205),
    "ImageFilter.MaxFilter": (0, 377, 0, 31.4),
    "ImageFilter.MedianFilter": (0, 712, 0, 724),
    "cv2.medianBlur": (21.8, 1.19, 0, 592),
    "cv2.erode": (0, 0.5, 0, 30),
    "cv2": (10.6, 0.665, 0, 12),
    "cv2.table": (13.2, 1.13, 0, 9.8),
}

#: Of a CPU: what is gained there is inversion and the filters that look for extremes.
CPU_COSTS = Costs(
    {name: Cost(1e-6 * row[0], 1e-9 * row[1]) for name, row in _CPU_ROWS.items()},
    {name: Cost(1e-6 * row[2], 1e-9 * row[3]) for name, row in _CPU_ROWS.items()},
    Cost(8e-6, 1.5e-9),
)
