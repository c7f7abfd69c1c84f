"""OpenCV's operations that a lifted program may contain; see `sandbox.operations.table`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from sandbox.geometry import Affine
from sandbox.operations.arrays import Table, is_kernel, is_table
from sandbox.operations.operation import (
    AROUND,
    Bound,
    Kind,
    State,
    called,
)
from sandbox.operations.outputs import (
    bordered,
    opencv_resize_frame,
    opencv_resized,
    warp_frame,
)
from sandbox.operations.parameters import (
    AUTO_KERNEL,
    Parameter,
    integer,
    is_scalar,
    is_size,
    maybe,
    number,
    odd,
    one_of,
    only,
    pair,
)


def _array(image: Image.Image) -> Any:  # cv2's stubs and numpy's disagree on arrays of uint8
    return np.asarray(image)


def _plain(value: Any) -> Any:
    return value.array if isinstance(value, Table) else value


def _opencv(name: str, *parameters: Parameter, tool: str, **known: Any) -> Kind:
    function: Any = getattr(cv2, name)

    def call(image: Image.Image, **values: Any) -> Image.Image:
        result = function(_array(image), **{key: _plain(value) for key, value in values.items()})
        return Image.fromarray(result[1] if name == "threshold" else result)

    picked = "[1]" if name == "threshold" else ""
    template = f"Image.fromarray(cv2.{name}(np.array({{x}}), {{args}}){picked})"
    return called(tool, call, template, *parameters, **known)


def _work(kernel: Table | None, iterations: int) -> int:
    return (9 if kernel is None else int(kernel.array.size)) * iterations


def _color_code(name: str, modes: tuple[str, ...], mode_after: str, tool: str | None) -> Kind:
    code = getattr(cv2, f"COLOR_{name}")
    return Kind(
        tool,
        lambda image, _: Image.fromarray(cv2.cvtColor(_array(image), code)),
        f"Image.fromarray(cv2.cvtColor(np.array({{x}}), cv2.COLOR_{name}))",
        after=lambda _, state: State(state.size, mode_after),
        modes=modes,
    )


def _denoiser(name: str, *parameters: Parameter, **known: Any) -> Kind:
    function: Any = getattr(cv2, name)
    return called(
        "denoise",
        lambda image, **values: Image.fromarray(function(_array(image), None, **values)),
        f"Image.fromarray(cv2.{name}(np.array({{x}}), None, {{args}}))",
        *parameters,
        bound=Bound(reason="time grows with both windows, and has other parts where the image is thin"),
        **known,
    )


_SIGMA = number(0, 50)
_MORPHOLOGY = Bound(
    600,
    "time grows with the elements of the kernel and the iterations",
    holds=lambda values, _: _work(values[-2], values[-1]) <= 250,
)
_DEPTH = Parameter("ddepth", only(-1, 0))
_ITERATIONS = Parameter("iterations", integer(1, 20), 1, by_name=True)
_WARP = (
    Parameter("dsize", is_size),
    Parameter("flags", only(*range(5)), cv2.INTER_LINEAR, by_name=True),
    Parameter("borderMode", only(0, 1, 2, 4), cv2.BORDER_CONSTANT, by_name=True),
    Parameter("borderValue", is_scalar, 0, by_name=True),
)
_WARPED = Bound(
    100,
    "OpenCV mirrors a far place back step by step, for ever if the image has one pixel",
    holds=lambda values, _: values[3] in (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE),
)
_WINDOWS = (Parameter("templateWindowSize", odd(1, 9), 7), Parameter("searchWindowSize", odd(1, 31), 21))
#: Conversions of three channels to three others.
SPACES = tuple(
    name
    for colors in ("RGB", "BGR")
    for space in ("HSV", "HLS", "LAB", "YCrCb", "YUV")
    for name in (f"{colors}2{space}", f"{space}2{colors}")
)

#: OpenCV's operations, by name.
OPENCV_OPERATIONS: dict[str, Kind] = {
    "cv2.resize": _opencv(
        "resize",
        Parameter("dsize", maybe(is_size)),
        Parameter("fx", number(0, 100), 0, by_name=True),
        Parameter("fy", number(0, 100), 0, by_name=True),
        Parameter("interpolation", one_of(*range(5)), cv2.INTER_LINEAR, by_name=True),
        tool="resize",
        after=opencv_resized,
        frame=opencv_resize_frame,
        bound=Bound(250),
    ),
    "cv2.GaussianBlur": _opencv(
        "GaussianBlur",
        Parameter("ksize", AUTO_KERNEL),
        Parameter("sigmaX", _SIGMA),
        Parameter("sigmaY", _SIGMA, 0, by_name=True),
        tool="blur",
        bound=Bound(1800),
    ),
    "cv2.blur": _opencv("blur", Parameter("ksize", pair(integer(1, 99))), tool="blur"),
    "cv2.medianBlur": _opencv("medianBlur", Parameter("ksize", odd(3, 9)), tool="median", bound=Bound(500)),
    "cv2.bilateralFilter": _opencv(
        "bilateralFilter",
        Parameter("d", integer(1, 15)),
        Parameter("sigmaColor", number(0.1, 500)),
        Parameter("sigmaSpace", number(0.1, 500)),
        tool="blur",
        bound=Bound(1000),
    ),
    "cv2.bitwise_not": _opencv("bitwise_not", tool="invert"),
    "cv2.convertScaleAbs": _opencv(
        "convertScaleAbs",
        Parameter("alpha", number(-1000, 1000), 1, by_name=True),
        Parameter("beta", number(-1000, 1000), 0, by_name=True),
        tool="contrast",
    ),
    "cv2.equalizeHist": _opencv("equalizeHist", tool="equalize", modes=("L",)),
    "cv2.threshold": _opencv(
        "threshold",
        Parameter("thresh", number(0, 255)),
        Parameter("maxval", number(0, 255)),
        Parameter("type", only(*range(5), *range(8, 13))),
        tool="threshold",
    ),
    "cv2.Canny": _opencv(
        "Canny",
        Parameter("threshold1", number(0, 1e4)),
        Parameter("threshold2", number(0, 1e4)),
        tool="edges",
        after=lambda _, state: State(state.size, "L"),
        bound=AROUND,
    ),
    "cv2.RGB2BGR": _color_code("RGB2BGR", ("RGB",), "RGB", "channel_swap"),
    "cv2.RGB2GRAY": _color_code("RGB2GRAY", ("RGB",), "L", "grayscale"),
    "cv2.BGR2GRAY": _color_code("BGR2GRAY", ("RGB",), "L", "grayscale"),
    "cv2.GRAY2RGB": _color_code("GRAY2RGB", ("L",), "RGB", None),
    **{f"cv2.{name}": _color_code(name, ("RGB",), "RGB", None) for name in SPACES},
    **{
        f"cv2.{name}": _opencv(name, Parameter("kernel", is_kernel), _ITERATIONS, tool=name, bound=_MORPHOLOGY)
        for name in ("erode", "dilate")
    },
    "cv2.morphologyEx": _opencv(
        "morphologyEx",
        Parameter("op", only(*range(7))),
        Parameter("kernel", is_kernel),
        _ITERATIONS,
        tool="morphology",
        bound=_MORPHOLOGY,
    ),
    "cv2.filter2D": _opencv(
        "filter2D",
        _DEPTH,
        Parameter("kernel", is_kernel),
        tool="convolve",
        bound=Bound(400),
    ),
    "cv2.Sobel": _opencv(
        "Sobel",
        _DEPTH,
        Parameter("dx", integer(0, 2)),
        Parameter("dy", integer(0, 2)),
        Parameter("ksize", only(3, 5, 7), 3, by_name=True),
        tool="edges",
        bound=Bound(400),
    ),
    "cv2.Laplacian": _opencv(
        "Laplacian", _DEPTH, Parameter("ksize", only(1, 3, 5, 7), 1, by_name=True), tool="edges", bound=Bound(400)
    ),
    "cv2.adaptiveThreshold": _opencv(
        "adaptiveThreshold",
        Parameter("maxValue", number(0, 255)),
        Parameter("adaptiveMethod", only(0, 1)),
        Parameter("thresholdType", only(0, 1)),
        Parameter("blockSize", odd(3, 199)),
        Parameter("C", number(-255, 255)),
        tool="threshold",
        modes=("L",),
        bound=AROUND,
    ),
    "cv2.createCLAHE": called(
        "clahe",
        lambda image, **values: Image.fromarray(cv2.createCLAHE(**values).apply(_array(image))),
        "Image.fromarray(cv2.createCLAHE({args}).apply(np.array({x})))",
        Parameter("clipLimit", number(0, 1000), 40.0),
        Parameter("tileGridSize", pair(integer(1, 32)), (8, 8)),
        modes=("L",),
    ),
    "cv2.warpAffine": _opencv(
        "warpAffine",
        Parameter("M", is_table(2, 3, dtypes=("float32", "float64"))),
        *_WARP,
        tool="affine",
        after=lambda values, state: State(values[1], state.mode),
        frame=warp_frame,
        bound=_WARPED,
    ),
    "cv2.warpPerspective": _opencv(
        "warpPerspective",
        Parameter("M", is_table(3, 3, dtypes=("float32", "float64"))),
        *_WARP,
        tool="perspective",
        after=lambda values, state: State(values[1], state.mode),
        frame=lambda values, size: None,
        bound=_WARPED,
    ),
    "cv2.copyMakeBorder": _opencv(
        "copyMakeBorder",
        *(Parameter(side, integer(0, 4096)) for side in ("top", "bottom", "left", "right")),
        Parameter("borderType", only(0, 1, 2, 4)),
        Parameter("value", is_scalar, 0, by_name=True),
        tool="pad",
        after=bordered,
        frame=lambda values, _: Affine(c=-values[2], f=-values[0]),
    ),
    "cv2.LUT": _opencv("LUT", Parameter("lut", is_table(256, dtypes=("uint8",))), tool="levels"),
    "cv2.fastNlMeansDenoisingColored": _denoiser(
        "fastNlMeansDenoisingColored",
        Parameter("h", number(0.1, 100), 3),
        Parameter("hColor", number(0.1, 100), 3),
        *_WINDOWS,
        modes=("RGB",),
    ),
    "cv2.fastNlMeansDenoising": _denoiser("fastNlMeansDenoising", Parameter("h", number(0.1, 100), 3), *_WINDOWS),
}
