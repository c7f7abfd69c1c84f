"""Which operations the lane does under each contract, how close they are, and why it declines the others.

*exact*: every operation gives Pillow's and OpenCV's own bits. *close*: an operation may be Kornia's; each row says how
far it may be from the library's (`TensorKind.most`). docs/kornia_lane.md has what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sandbox.lanes.tensor import filters, moving, opencv, spaces, values, warps
from sandbox.operations.opencv import SPACES
from sandbox.operations.operation import State, Values
from sandbox.operations.outputs import contained_size, rotation, transform_frame
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness


def _never(values: Values, state: State) -> str | None:
    return None


def _unbounded(values: Values) -> float:
    return math.inf


def _nowhere(values: Values) -> float:
    return 0.0


@dataclass(frozen=True)
class TensorKind:
    """How the lane does an operation.

    Attributes:
        call: (uint8 [N, C, H, W], the values of each image) -> uint8 of the new shape.
        backend: The function that does it, for the documentation.
        is_per_image: Whether images with different values go in one call.
        declines: (values, state before) -> why this call is left to the Pillow lane, None if the lane does it.
        most: Largest difference from the library's result, of 255; 0 is bit for bit.
        far: values -> share of values that may differ by more, where a tie falls to the other side.
        growth: values -> by how much it can enlarge a difference between two images.
    """

    call: Callable[[Tensor, Sequence[Values]], Tensor]
    backend: str = "torch"
    is_per_image: bool = False
    declines: Callable[[Values, State], str | None] = _never
    most: int = 0
    far: Callable[[Values], float] = _nowhere
    growth: Callable[[Values], float] = _unbounded


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


def _declines_close_resize(values: Values, state: State) -> str | None:
    return _declines_resize(values, state) or moving.declines_interpolation(values, state.size)


def _declines_cv2_resize(values: Values, state: State) -> str | None:
    if values[3] != 0:
        return PARTLY_DECLINED["cv2.resize"]
    after = OPERATIONS["cv2.resize"].after(values, state).size
    sides = zip(state.size, after, values[1:3], strict=True)
    # OpenCV copies an image whose size stays; each axis is resized on its own here.
    is_copied = values[0] is None and any(old == new and factor != 1 for old, new, factor in sides)
    return "a factor that leaves a side as long as it was" if is_copied else None


def _declines_close_cv2_resize(values: Values, state: State) -> str | None:
    size, across, down, kind = values
    if kind == 0:
        return "the exact one does it"
    after = OPERATIONS["cv2.resize"].after(values, state).size
    if max(*state.size, *after) > opencv.MAX_SIDE:
        return f"a side of more than {opencv.MAX_SIDE} pixels"
    is_mixed = kind == 3 and not (after[0] <= state.size[0] and after[1] <= state.size[1])
    if is_mixed:
        return "INTER_AREA of an image that grows"
    return _declines_cv2_resize((size, across, down, 0), state)


def _declines_gaussian(values: Values, state: State) -> str | None:
    return PARTLY_DECLINED["cv2.GaussianBlur"] if any(0 < sigma < 0.01 for sigma in values[1:]) else None


def _declines_pad(values: Values, state: State) -> str | None:
    return PARTLY_DECLINED["ImageOps.pad"] if min(contained_size(state.size, values[0])) < 1 else None


def _declines_close_rotate(values: Values, state: State) -> str | None:
    size, frame = rotation(values, state.size)
    is_far = values[1] == 0 and warps.is_beyond_fixed_point(frame, size)
    return PARTLY_DECLINED["Image.rotate"] if is_far else None


def _declines_rotate(values: Values, state: State) -> str | None:
    is_sampled = values[1] != 0 and (values[0] % 90 != 0 or values[3] or values[4])
    return INEXACT if is_sampled else _declines_close_rotate(values, state)


def _declines_transform(values: Values, state: State) -> str | None:
    frame = transform_frame(values, state.size)
    is_far = frame is not None and values[3] == 0 and warps.is_beyond_fixed_point(frame, values[0])
    return PARTLY_DECLINED["Image.rotate"] if is_far else None


def _declines_warp(values: Values, state: State) -> str | None:
    if len(values[0].rows) == 3 and abs(np.linalg.det(values[0].array.astype(float))) < 1e-9:
        return "a matrix without an inverse"
    return PARTLY_DECLINED["cv2.warpAffine"] if values[2] == 4 or min(state.size) < 2 else None


def _declines_kernel(values: Values, state: State) -> str | None:
    if values[1] is None or filters.sum_of_weights(values[1]) > 1 << 12:
        return PARTLY_DECLINED["cv2.filter2D"]
    return None


def _declines_fractions(values: Values, state: State) -> str | None:
    reason = _declines_kernel(values, state)
    return reason or (None if filters.is_whole(values[1]) else INEXACT)


def _declines_derivative(values: Values, state: State) -> str | None:
    return "no derivative is asked for" if values[1:3] == (0, 0) else None


def _declines_custom(values: Values, state: State) -> str | None:
    _, numbers, scale, _ = values
    divisor = sum(numbers) if scale is None else scale
    is_large = not divisor or sum(map(abs, numbers)) > min(abs(divisor), 1) * (1 << 12)
    return PARTLY_DECLINED["ImageFilter.Kernel"] if is_large else None


def _declines_unsharp(values: Values, state: State) -> str | None:
    return PARTLY_DECLINED["ImageFilter.UnsharpMask"] if values[1] > 200 else None


def _once(values: Values) -> float:
    return 1.0


def _kernel_growth(name: str) -> Callable[[Values], float]:
    _, divisor, _, numbers = filters.KERNELS[name]
    return lambda values: float(sum(map(abs, numbers)) / divisor)


def _weights_growth(values: Values) -> float:
    return filters.sum_of_weights(values[1])


def _blend_growth(values: Values) -> float:
    """Of a blend of an image with an average of its values."""
    return float(abs(values[0]) + abs(1 - values[0]))


def _overshoot(values: Values) -> float:
    """Of a separable filter with negative lobes: the absolute weights of an axis add up to 1.56 at most (Lanczos)."""
    return 2.5


def _rows(module: object, names: dict[str, str], **known: object) -> dict[str, TensorKind]:
    return {name: TensorKind(getattr(module, function), **known) for name, function in names.items()}  # type: ignore[arg-type]


def _kernels(names: Iterable[str], most: int) -> dict[str, TensorKind]:
    return {
        f"ImageFilter.{name}": TensorKind(
            filters.kernel_filter(name), _FILTER2D, most=most, growth=_kernel_growth(name)
        )
        for name in names
    }


_MORPHOLOGY = "kornia.morphology"
_FILTER2D = "kornia.filters.filter2d"
_REMAP = "kornia.geometry.remap"

#: What the lane does bit for bit, under both contracts.
EXACT: dict[str, TensorKind] = {
    "orient": TensorKind(moving.orient, "kornia.geometry.hflip, vflip, rot180; torch.rot90", growth=_once),
    "Image.rotate": TensorKind(warps.rotate, declines=_declines_rotate, growth=_once),
    "Image.resize": TensorKind(moving.resize, declines=_declines_resize, growth=_overshoot),
    "ImageOps.pad": TensorKind(moving.pad, declines=_declines_pad, growth=_overshoot),
    **_rows(moving, {"Image.crop": "crop", "ImageOps.expand": "expand", "Image.paste": "paste"}, growth=_once),
    "cv2.copyMakeBorder": TensorKind(moving.copy_border, growth=_once),
    "cv2.resize": TensorKind(moving.resize_opencv_nearest, declines=_declines_cv2_resize, growth=_once),
    **_rows(
        values,
        {
            "Image.convert": "convert",
            "Image.getchannel": "pick_channel",
            "ImageOps.invert": "invert",
            "cv2.bitwise_not": "invert",
            "cv2.RGB2BGR": "swap_channels",
            "cv2.RGB2GRAY": "rgb_to_gray",
            "cv2.BGR2GRAY": "bgr_to_gray",
            "cv2.GRAY2RGB": "gray_to_rgb",
        },
        is_per_image=True,
        growth=_once,
    ),
    **_rows(
        values,
        {"cv2.equalizeHist": "equalize_hist", "cv2.threshold": "threshold", "cv2.LUT": "look_up"},
        is_per_image=True,
    ),
    "ImageOps.posterize": TensorKind(values.posterize, "kornia.enhance.posterize", is_per_image=True),
    "ImageOps.solarize": TensorKind(values.by_library("ImageOps.solarize"), is_per_image=True),
    **{
        name: TensorKind(values.by_histogram(name), is_per_image=True)
        for name in ("ImageOps.autocontrast", "ImageOps.equalize")
    },
    **{
        name: TensorKind(values.by_library(name), is_per_image=True, growth=lambda values: abs(values[0]))
        for name in ("ImageEnhance.Brightness", "cv2.convertScaleAbs")
    },
    "ImageEnhance.Contrast": TensorKind(values.contrast, is_per_image=True, growth=_blend_growth),
    "ImageEnhance.Color": TensorKind(values.color, is_per_image=True, growth=_blend_growth),
    "ImageEnhance.Sharpness": TensorKind(filters.sharpness, _FILTER2D, is_per_image=True, growth=_blend_growth),
    **_kernels(filters.EXACT_KERNELS, most=0),
    "ImageFilter.MedianFilter": TensorKind(filters.median_filter, "kornia.filters.median_blur", growth=_once),
    "cv2.medianBlur": TensorKind(filters.median_filter, "kornia.filters.median_blur", growth=_once),
    "ImageFilter.MinFilter": TensorKind(filters.extreme_filter(is_least=True), _MORPHOLOGY, growth=_once),
    "ImageFilter.MaxFilter": TensorKind(filters.extreme_filter(is_least=False), _MORPHOLOGY, growth=_once),
    "cv2.erode": TensorKind(filters.erode, _MORPHOLOGY, growth=_once),
    "cv2.dilate": TensorKind(filters.dilate, _MORPHOLOGY, growth=_once),
    "cv2.morphologyEx": TensorKind(filters.morphology_ex, _MORPHOLOGY, growth=lambda values: 2),
    "cv2.filter2D": TensorKind(filters.correlate, _FILTER2D, declines=_declines_fractions, growth=_weights_growth),
    "cv2.GaussianBlur": TensorKind(filters.gaussian_blur, _FILTER2D, declines=_declines_gaussian, growth=_once),
    **{
        name: TensorKind(filters.derivative(name), _FILTER2D, declines=_declines_derivative)
        for name in ("cv2.Sobel", "cv2.Laplacian")
    },
    "cv2.Canny": TensorKind(opencv.canny, "torch, kornia.filters.spatial_gradient"),
}

#: What the lane does beside it, or instead if it is faster, under the contract "close".
CLOSE: dict[str, TensorKind] = {
    "Image.resize": TensorKind(
        moving.interpolate, "torch interpolate", declines=_declines_close_resize, most=2, growth=_overshoot
    ),
    "Image.rotate": TensorKind(warps.rotate, _REMAP, declines=_declines_close_rotate, most=1, growth=_overshoot),
    "Image.transform": TensorKind(warps.transform, _REMAP, declines=_declines_transform, most=1, growth=_overshoot),
    "cv2.resize": TensorKind(
        opencv.resize, "torch matmul", declines=_declines_close_cv2_resize, most=1, growth=_overshoot
    ),
    **{
        name: TensorKind(
            warps.warp,
            _REMAP,
            declines=_declines_warp,
            most=1,
            far=lambda values: 0.02 if values[2] == 0 else 0.0,
            growth=_overshoot,
        )
        for name in ("cv2.warpAffine", "cv2.warpPerspective")
    },
    **_kernels(filters.KERNELS.keys() - filters.EXACT_KERNELS, most=1),
    "ImageFilter.Kernel": TensorKind(filters.custom_kernel, _FILTER2D, declines=_declines_custom, most=1),
    "ImageFilter.BoxBlur": TensorKind(filters.box_blur, _FILTER2D, most=1, growth=_once),
    "ImageFilter.GaussianBlur": TensorKind(filters.pillow_gaussian, _FILTER2D, most=2, growth=_once),
    "ImageFilter.UnsharpMask": TensorKind(
        filters.unsharp_mask, _FILTER2D, declines=_declines_unsharp, most=2, far=lambda values: 0.02
    ),
    "cv2.filter2D": TensorKind(filters.correlate, _FILTER2D, declines=_declines_kernel, most=1, growth=_weights_growth),
    "cv2.blur": TensorKind(filters.blur, _FILTER2D, most=1, growth=_once),
    "cv2.bilateralFilter": TensorKind(opencv.bilateral, most=1),
    "cv2.adaptiveThreshold": TensorKind(opencv.adaptive_threshold, _FILTER2D, most=0, far=lambda values: 0.02),
    "cv2.createCLAHE": TensorKind(opencv.clahe, most=1),
    **{
        f"cv2.{name}": TensorKind(spaces.conversion(name), "kornia.color", is_per_image=True, most=2) for name in SPACES
    },
}

#: The operations that the lane leaves to the Pillow lane under both contracts, and why.
DECLINED: dict[str, str] = {
    "cv2.fastNlMeansDenoising": "a search around every pixel: seconds, wherever it runs",
    "cv2.fastNlMeansDenoisingColored": "a search around every pixel: seconds, wherever it runs",
    "ImageFilter.ModeFilter": "counts of 256 values for every pixel",
    "ImageFilter.RankFilter": "Kornia has no rank but the median",
    **dict.fromkeys(
        ("ImageDraw.rectangle", "ImageDraw.ellipse", "ImageDraw.line"), "a few strokes: no batch operation"
    ),
}

#: Of a call that only the contract "close" does.
INEXACT = "no tensor operation gives the library's own bits"

#: Of other operations, the calls that it leaves, and why.
PARTLY_DECLINED: dict[str, str] = {
    "Image.resize": "a reducing step (reducing_gap) before the resampling is another algorithm",
    "Image.rotate": "without interpolation, coordinates of 32,768 or more leave Pillow's 16.16 fixed point",
    "ImageOps.pad": "nothing of the image is left",
    "ImageFilter.Kernel": "weights so large that float32 loses the pixel",
    "ImageFilter.UnsharpMask": "more than 200 percent enlarges a rounding of the blur",
    "cv2.filter2D": "no kernel, or weights so large that float32 loses the pixel",
    "cv2.GaussianBlur": "a sigma between 0 and 0.01 divides by zero",
    "cv2.resize": "but for INTER_NEAREST its fixed point depends on processor and size",
    "cv2.warpAffine": "INTER_LANCZOS4, and images of one row or column",
}


def kind_of(name: str, values: Values, state: State, exactness: Exactness) -> TensorKind | str:
    """How the lane does a call, or the name of the operation and why it leaves it to the Pillow lane.

    Args:
        name: A key of `sandbox.operations.table.OPERATIONS`.
        values: One value for each parameter.
        state: Size (width, height) and mode before the call.
        exactness: The contract.
    """
    if name in DECLINED:
        return f"{name}: {DECLINED[name]}"
    bound = OPERATIONS[name].bound
    if not bound.holds(values, state.size):  # time and memory must be bounded wherever a call runs
        return f"{name}: {bound.reason}"
    reason: str | None = INEXACT
    for rows in (CLOSE, EXACT) if exactness == "close" else (EXACT,):
        if (kind := rows.get(name)) is not None:
            reason = kind.declines(values, state)
            if reason is None:
                return kind
    return f"{name}: {reason}"


def operations_of(exactness: Exactness) -> list[str]:
    """Names of the operations of which the lane does some calls."""
    rows = EXACT.keys() | CLOSE.keys() if exactness == "close" else EXACT.keys()
    return [name for name in OPERATIONS if name in rows]
