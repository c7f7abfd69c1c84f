"""Which operations the lane does, and why it declines the others.

Every operation here gives Pillow's and OpenCV's own bits (`TOLERANCES`): it repeats their arithmetic on bytes in whole
numbers, or in floats of the same width and order. Operations for which that is impossible are declined by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sandbox.lanes.tensor import colours, filters, moving, opencv
from sandbox.operations.opencv import SPACES
from sandbox.operations.operation import State, Values
from sandbox.operations.outputs import contained_size


def _never(values: Values, state: State) -> str | None:
    return None


@dataclass(frozen=True)
class TensorKind:
    """How the lane does an operation.

    Attributes:
        call: (uint8 [N, C, H, W], the values of each image) -> uint8 of the new shape.
        is_per_image: Whether images with different values go in one call.
        declines: (values, state before) -> why this call is left to the Pillow lane, None if the lane does it.
    """

    call: Callable[[Tensor, Sequence[Values]], Tensor]
    is_per_image: bool = False
    declines: Callable[[Values, State], str | None] = _never


def _declines_resize(values: Values, state: State) -> str | None:
    size, method, box, gap = values
    left, top, right, bottom = box or (0, 0, *state.size)
    if left < 0 or top < 0 or right > state.size[0] or bottom > state.size[1]:
        return "a box beyond the image is an error of Pillow's"
    if gap is not None and method != 0:
        spans = ((right - left) / size[0], (bottom - top) / size[1])
        if any(int(span / gap) > 1 for span in spans):
            return PARTLY_DECLINED["Image.resize"]
    return None


def _declines_cv2_resize(values: Values, state: State) -> str | None:
    return None if values[3] == 0 else PARTLY_DECLINED["cv2.resize"]


def _declines_cv2_blur(values: Values, state: State) -> str | None:
    return PARTLY_DECLINED["cv2.GaussianBlur"] if any(0 < sigma < 0.01 for sigma in values[1:]) else None


def _declines_pad(values: Values, state: State) -> str | None:
    if min(contained_size(state.size, values[0])) < 1:
        return PARTLY_DECLINED["ImageOps.pad"]
    return None


def _declines_rotate(values: Values, state: State) -> str | None:
    if values[1] == 0 and moving.is_beyond_fixed_point(values, state.size):
        return PARTLY_DECLINED["Image.rotate"]
    return None


def _declines_filter(values: Values, state: State) -> str | None:
    return None if opencv.is_exact_kernel(values[1]) else PARTLY_DECLINED["cv2.filter2D"]


#: The operations that the lane does.
TENSOR_OPERATIONS: dict[str, TensorKind] = {
    "orient": TensorKind(moving.orient),
    "Image.rotate": TensorKind(moving.rotate, declines=_declines_rotate),
    "Image.crop": TensorKind(moving.crop),
    "Image.resize": TensorKind(moving.resize, declines=_declines_resize),
    "Image.convert": TensorKind(colours.convert),
    "ImageOps.pad": TensorKind(moving.pad, declines=_declines_pad),
    "ImageOps.expand": TensorKind(moving.expand),
    "ImageOps.autocontrast": TensorKind(colours.autocontrast, is_per_image=True),
    "ImageOps.equalize": TensorKind(colours.equalize, is_per_image=True),
    "ImageOps.invert": TensorKind(colours.invert, is_per_image=True),
    "ImageOps.posterize": TensorKind(colours.posterize, is_per_image=True),
    "ImageOps.solarize": TensorKind(colours.by_library("ImageOps.solarize"), is_per_image=True),
    "ImageEnhance.Brightness": TensorKind(colours.by_library("ImageEnhance.Brightness"), is_per_image=True),
    "ImageEnhance.Contrast": TensorKind(colours.contrast, is_per_image=True),
    "ImageEnhance.Color": TensorKind(colours.color, is_per_image=True),
    "ImageEnhance.Sharpness": TensorKind(colours.sharpness, is_per_image=True),
    **{f"ImageFilter.{name}": TensorKind(filters.kernel_filter(name)) for name in filters.KERNELS},
    "ImageFilter.GaussianBlur": TensorKind(filters.gaussian_blur),
    "ImageFilter.BoxBlur": TensorKind(filters.box_blur),
    "ImageFilter.UnsharpMask": TensorKind(filters.unsharp_mask),
    "ImageFilter.MedianFilter": TensorKind(filters.median_filter),
    "ImageFilter.MinFilter": TensorKind(filters.min_filter),
    "ImageFilter.MaxFilter": TensorKind(filters.max_filter),
    "cv2.medianBlur": TensorKind(filters.median_filter),
    "cv2.resize": TensorKind(opencv.resize_nearest, declines=_declines_cv2_resize),
    "cv2.GaussianBlur": TensorKind(opencv.gaussian_blur, declines=_declines_cv2_blur),
    "cv2.bitwise_not": TensorKind(colours.invert, is_per_image=True),
    "cv2.convertScaleAbs": TensorKind(colours.by_library("cv2.convertScaleAbs"), is_per_image=True),
    "cv2.threshold": TensorKind(opencv.threshold, is_per_image=True),
    "cv2.equalizeHist": TensorKind(colours.equalize_hist, is_per_image=True),
    "cv2.RGB2BGR": TensorKind(opencv.swap_channels, is_per_image=True),
    "cv2.RGB2GRAY": TensorKind(opencv.rgb_to_gray, is_per_image=True),
    "cv2.BGR2GRAY": TensorKind(opencv.bgr_to_gray, is_per_image=True),
    "cv2.GRAY2RGB": TensorKind(opencv.gray_to_rgb, is_per_image=True),
    "ImageFilter.RankFilter": TensorKind(filters.rank_filter),
    "ImageFilter.Kernel": TensorKind(filters.custom_kernel),
    "Image.getchannel": TensorKind(colours.pick_channel, is_per_image=True),
    "Image.paste": TensorKind(moving.paste),
    "cv2.LUT": TensorKind(colours.look_up, is_per_image=True),
    "cv2.copyMakeBorder": TensorKind(opencv.bordered),
    "cv2.erode": TensorKind(opencv.erode),
    "cv2.dilate": TensorKind(opencv.dilate),
    "cv2.morphologyEx": TensorKind(opencv.morphology),
    "cv2.filter2D": TensorKind(opencv.correlate, declines=_declines_filter),
}

#: The operations that the lane leaves to the Pillow lane, and why.
DECLINED: dict[str, str] = {
    "cv2.blur": "its rounding depends on the vector instructions of the processor",
    "cv2.bilateralFilter": "its float sums depend on the processor's vector width",
    "cv2.adaptiveThreshold": "its local means are those of cv2.blur and cv2.GaussianBlur at another border",
    "cv2.createCLAHE": "its tables are mixed in float sums that depend on the processor's vector width",
    "cv2.warpAffine": "its fixed point depends on the processor's vector instructions",
    "cv2.fastNlMeansDenoising": "a search around every pixel: seconds, wherever it runs",
    "cv2.fastNlMeansDenoisingColored": "a search around every pixel: seconds, wherever it runs",
    **dict.fromkeys((f"cv2.{name}" for name in SPACES), "its tables and roundings depend on the vector instructions"),
    "Image.transform": "Pillow's own steps along bent lines, which nothing needs in batches",
    "ImageFilter.ModeFilter": "counts of 256 values for every pixel, and ties that go by the order of counting",
    **dict.fromkeys(
        ("ImageDraw.rectangle", "ImageDraw.ellipse", "ImageDraw.line"), "a few strokes: no batch operation"
    ),
    "cv2.Canny": "hysteresis follows an edge from pixel to pixel: no batch operation",
}

#: Of other operations, the calls that it leaves, and why.
PARTLY_DECLINED: dict[str, str] = {
    "Image.resize": "a reducing step (reducing_gap) before the resampling is another algorithm",
    "Image.rotate": "without interpolation, coordinates of 32,768 or more leave Pillow's 16.16 fixed point",
    "ImageOps.pad": "nothing of the image is left",
    "cv2.filter2D": "but for whole numbers its float sums depend on the processor's vector width",
    "cv2.GaussianBlur": "a sigma between 0 and 0.01 divides by zero",
    "cv2.resize": "but for INTER_NEAREST its fixed point depends on processor and size",
}

#: Largest difference from the Pillow lane, of 255, on any image.
TOLERANCES: dict[str, int] = dict.fromkeys(TENSOR_OPERATIONS, 0)


def why_declined(name: str, values: Values, state: State) -> str | None:
    """The name of an operation and why the lane leaves this call to the Pillow lane; None if it does it.

    Args:
        name: A key of `sandbox.operations.table.OPERATIONS`.
        values: One value for each parameter.
        state: Size (width, height) and mode before the call.
    """
    if name not in TENSOR_OPERATIONS:
        return f"{name}: {DECLINED[name]}"
    reason = TENSOR_OPERATIONS[name].declines(values, state)
    return None if reason is None else f"{name}: {reason}"
