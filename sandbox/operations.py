"""The operations that a lifted program may hold: parameters and their ranges, size, frame, tool, and the call itself.

Sizes are (width, height) in pixels. The calls are the library's own: a lifted program gives its bits and its messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sandbox.checks import (
    AFFINE_RESAMPLING,
    KERNEL,
    RESAMPLING,
    UNIT_PAIR,
    Parameter,
    integer,
    is_area,
    is_border,
    is_box,
    is_colour,
    is_flag,
    is_ratio,
    is_size,
    is_source_box,
    maybe,
    number,
    odd,
    one_of,
    only,
    pair,
)
from sandbox.geometry import ORIENTATIONS, PILLOW_TRANSPOSE, orient, orientation_frame
from sandbox.kinds import (
    Kind,
    State,
    Values,
    borders,
    converted,
    crop_frame,
    cropped,
    expand_frame,
    expanded,
    filter_cost,
    gray,
    pad_frame,
    resize_acts,
    resize_frame,
    resized,
    rotated,
    rotation,
    separable_cost,
    turned,
    window_cost,
)


def _array(image: Image.Image) -> Any:  # cv2's stubs and numpy's disagree on arrays of uint8
    return np.asarray(image)


def _method(name: str, parameters: tuple[Parameter, ...]) -> Callable[[Image.Image, Values], Image.Image]:
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        result: Image.Image = getattr(image, name)(**dict(zip(names, values, strict=True)))
        return result

    return call


def _pillow_method(name: str, *parameters: Parameter, tool: str | None, **known: Any) -> Kind:
    return Kind(tool, _method(name, parameters), f"{{x}}.{name}({{args}})", parameters, **known)


def _image_ops(name: str, *parameters: Parameter, tool: str, **known: Any) -> Kind:
    function: Any = getattr(ImageOps, name)
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        result: Image.Image = function(image, **dict(zip(names, values, strict=True)))
        return result

    return Kind(tool, call, f"ImageOps.{name}({{x}}, {{args}})", parameters, **known)


def _enhancer(name: str, tool: str) -> Kind:
    enhancer: Any = getattr(ImageEnhance, name)

    def call(image: Image.Image, values: Values) -> Image.Image:
        result: Image.Image = enhancer(image).enhance(values[0])
        return result

    factor = (Parameter("factor", number(-1000, 1000)),)
    return Kind(tool, call, f"ImageEnhance.{name}({{x}}).enhance({{args}})", factor, acts=lambda v, _: v[0] != 1)


def _filter(name: str, *parameters: Parameter, tool: str, **known: Any) -> Kind:
    kernel: Any = getattr(ImageFilter, name)
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        return image.filter(kernel(**dict(zip(names, values, strict=True))))

    arguments = "({args})" if parameters else ""
    return Kind(
        tool, call, f"{{x}}.filter(ImageFilter.{name}{arguments})", parameters, **{"cost": filter_cost, **known}
    )


def _opencv(name: str, *parameters: Parameter, tool: str, **known: Any) -> Kind:
    function: Any = getattr(cv2, name)
    names = [parameter.name for parameter in parameters]

    def call(image: Image.Image, values: Values) -> Image.Image:
        result = function(_array(image), **dict(zip(names, values, strict=True)))
        return Image.fromarray(result[1] if name == "threshold" else result)

    picked = "[1]" if name == "threshold" else ""
    template = f"Image.fromarray(cv2.{name}(np.array({{x}}), {{args}}){picked})"
    return Kind(tool, call, template, parameters, **known)


def _colour_code(name: str, modes: tuple[str, ...], mode_after: str, tool: str | None) -> Kind:
    code = getattr(cv2, f"COLOR_{name}")
    return Kind(
        tool,
        lambda image, _: Image.fromarray(cv2.cvtColor(_array(image), code)),
        f"Image.fromarray(cv2.cvtColor(np.array({{x}}), cv2.COLOR_{name}))",
        after=lambda _, state: State(state.size, mode_after),
        modes=modes,
    )


_METHOD = Parameter("method", RESAMPLING, 3)
_SIGMA = number(0, 50)
_CV2_INTERPOLATION = Parameter("interpolation", one_of(*range(5)), cv2.INTER_LINEAR, by_name=True)
_DEPTH = Parameter("ddepth", only(-1))

#: Every operation that a program may hold, by name.
OPERATIONS: dict[str, Kind] = {
    "orient": Kind(
        None,
        lambda image, values: orient(image, values[0]),
        "{x}.transpose({args})",
        (Parameter("method", only(*ORIENTATIONS)),),
        after=turned,
        frame=lambda values, size: orientation_frame(values[0], size),
        is_colour=False,
    ),
    "Image.rotate": _pillow_method(
        "rotate",
        Parameter("angle", number(-1e6, 1e6)),
        Parameter("resample", AFFINE_RESAMPLING, 0),
        Parameter("expand", is_flag, False),
        Parameter("center", maybe(pair(number(-1e5, 1e5))), None),
        Parameter("translate", maybe(pair(number(-1e5, 1e5))), None),
        Parameter("fillcolor", is_colour, None),
        tool="rotate",
        after=rotated,
        frame=lambda values, size: rotation(values, size)[1],
        is_colour=False,
    ),
    "Image.crop": _pillow_method(
        "crop", Parameter("box", is_box), tool="crop", after=cropped, frame=crop_frame, is_colour=False
    ),
    "Image.resize": _pillow_method(
        "resize",
        Parameter("size", is_size),
        Parameter("resample", maybe(RESAMPLING), None),
        Parameter("box", is_source_box, None),
        Parameter("reducing_gap", is_ratio, None),
        tool="resize",
        after=resized,
        frame=resize_frame,
        acts=resize_acts,
        is_colour=False,
    ),
    "Image.convert": _pillow_method("convert", Parameter("mode", only("L", "RGB")), tool=None, after=converted),
    "ImageOps.pad": _image_ops(
        "pad",
        Parameter("size", is_area),
        _METHOD,
        Parameter("color", is_colour, None),
        Parameter("centering", UNIT_PAIR, (0.5, 0.5)),
        tool="pad",
        after=resized,
        frame=pad_frame,
        acts=lambda values, size: bool(values[0] != size),
        is_colour=False,
    ),
    "ImageOps.expand": _image_ops(
        "expand",
        Parameter("border", is_border, 0),
        Parameter("fill", is_colour, 0),
        tool="pad",
        after=expanded,
        frame=expand_frame,
        acts=lambda values, _: any(borders(values[0])),
        is_colour=False,
    ),
    "ImageOps.autocontrast": _image_ops(
        "autocontrast",
        Parameter("cutoff", number(0, 49), 0),
        Parameter("ignore", maybe(integer(0, 255)), None),
        Parameter("mask", only(None), None),
        Parameter("preserve_tone", is_flag, False),
        tool="autocontrast",
    ),
    "ImageOps.equalize": _image_ops("equalize", tool="equalize"),
    "ImageOps.invert": _image_ops("invert", tool="invert"),
    "ImageOps.posterize": _image_ops("posterize", Parameter("bits", integer(1, 8)), tool="posterize"),
    "ImageOps.solarize": _image_ops("solarize", Parameter("threshold", number(0, 256), 128), tool="solarize"),
    "ImageEnhance.Brightness": _enhancer("Brightness", "brightness"),
    "ImageEnhance.Contrast": _enhancer("Contrast", "contrast"),
    "ImageEnhance.Color": _enhancer("Color", "color"),
    "ImageEnhance.Sharpness": _enhancer("Sharpness", "sharpness"),
    **{
        f"ImageFilter.{name}": _filter(name, tool=tool)
        for name, tool in {
            "BLUR": "blur",
            "SMOOTH": "blur",
            "SMOOTH_MORE": "blur",
            "CONTOUR": "edges",
            "FIND_EDGES": "edges",
            "DETAIL": "sharpen",
            "EDGE_ENHANCE": "sharpen",
            "EDGE_ENHANCE_MORE": "sharpen",
            "SHARPEN": "sharpen",
            "EMBOSS": "emboss",
        }.items()
    },
    "ImageFilter.GaussianBlur": _filter("GaussianBlur", Parameter("radius", _SIGMA, 2), tool="blur"),
    "ImageFilter.BoxBlur": _filter("BoxBlur", Parameter("radius", _SIGMA), tool="blur"),
    "ImageFilter.UnsharpMask": _filter(
        "UnsharpMask",
        Parameter("radius", _SIGMA, 2),
        Parameter("percent", integer(0, 1000), 150),
        Parameter("threshold", integer(0, 255), 3),
        tool="unsharp",
    ),
    "ImageFilter.MedianFilter": _filter(
        "MedianFilter", Parameter("size", odd(1, 9), 3), tool="median", cost=window_cost
    ),
    "ImageFilter.MinFilter": _filter("MinFilter", Parameter("size", odd(1, 9), 3), tool="erode", cost=window_cost),
    "ImageFilter.MaxFilter": _filter("MaxFilter", Parameter("size", odd(1, 9), 3), tool="dilate", cost=window_cost),
    "cv2.resize": _opencv(
        "resize",
        Parameter("dsize", is_size),
        _CV2_INTERPOLATION,
        tool="resize",
        after=resized,
        frame=resize_frame,
        acts=resize_acts,
        is_colour=False,
    ),
    "cv2.GaussianBlur": _opencv(
        "GaussianBlur",
        Parameter("ksize", KERNEL),
        Parameter("sigmaX", _SIGMA),
        Parameter("sigmaY", _SIGMA, 0, by_name=True),
        tool="blur",
        cost=separable_cost,
    ),
    "cv2.blur": _opencv("blur", Parameter("ksize", pair(integer(1, 99))), tool="blur", cost=separable_cost),
    "cv2.medianBlur": _opencv("medianBlur", Parameter("ksize", odd(3, 9)), tool="median", cost=window_cost),
    "cv2.bilateralFilter": _opencv(
        "bilateralFilter",
        Parameter("d", integer(1, 15)),
        Parameter("sigmaColor", number(0.1, 500)),
        Parameter("sigmaSpace", number(0.1, 500)),
        tool="blur",
        cost=window_cost,
    ),
    "cv2.bitwise_not": _opencv("bitwise_not", tool="invert"),
    "cv2.convertScaleAbs": _opencv(
        "convertScaleAbs",
        Parameter("alpha", number(-1000, 1000), 1, by_name=True),
        Parameter("beta", number(-1000, 1000), 0, by_name=True),
        tool="contrast",
        acts=lambda values, _: bool(tuple(values) != (1, 0)),
    ),
    "cv2.equalizeHist": _opencv("equalizeHist", tool="equalize", modes=("L",)),
    "cv2.threshold": _opencv(
        "threshold",
        Parameter("thresh", number(0, 255)),
        Parameter("maxval", number(0, 255)),
        Parameter("type", only(*range(5))),
        tool="threshold",
    ),
    "cv2.Canny": _opencv(
        "Canny",
        Parameter("threshold1", number(0, 1e4)),
        Parameter("threshold2", number(0, 1e4)),
        tool="edges",
        after=gray,
    ),
    "cv2.RGB2BGR": _colour_code("RGB2BGR", ("RGB",), "RGB", "channel_swap"),
    "cv2.RGB2GRAY": _colour_code("RGB2GRAY", ("RGB",), "L", "grayscale"),
    "cv2.BGR2GRAY": _colour_code("BGR2GRAY", ("RGB",), "L", "grayscale"),
    "cv2.GRAY2RGB": _colour_code("GRAY2RGB", ("L",), "RGB", None),
}

_CONSTANTS = {name: f"Image.Transpose.{method.name}" for name, method in PILLOW_TRANSPOSE.items()}


def write(name: str, values: Values) -> str:
    """The call of an operation on `result`, as Python."""
    kind = OPERATIONS[name]
    arguments = []
    for index, (parameter, value) in enumerate(zip(kind.parameters, values, strict=True)):
        if index == 0 and not parameter.by_name:
            arguments.append(_CONSTANTS[value] if name == "orient" else repr(value))
        elif parameter.default is ... or value != parameter.default or type(value) is not type(parameter.default):
            arguments.append(f"{parameter.name}={value!r}")
    text = kind.template.format(x="result", args=", ".join(arguments))
    return text.replace(", )", ")")
