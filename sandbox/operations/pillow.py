"""Pillow's operations that a lifted program may contain; see `sandbox.operations.table`."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from sandbox.geometry import ORIENTATIONS, Affine, Size, orient, orientation_frame
from sandbox.operations.operation import AROUND, MOVE, Bound, Kind, State, Values, called
from sandbox.operations.outputs import (
    borders,
    crop_frame,
    cropped,
    expanded,
    pad_frame,
    resize_frame,
    resized,
    rotated,
    rotation,
    transform_frame,
    turned,
)
from sandbox.operations.parameters import (
    AFFINE_RESAMPLING,
    RESAMPLING,
    UNIT_PAIR,
    Parameter,
    integer,
    is_border,
    is_box,
    is_color,
    is_corners,
    is_flag,
    is_points,
    is_ratio,
    is_size,
    is_source_box,
    maybe,
    number,
    numbers,
    odd,
    only,
    pair,
)


def _pillow_method(name: str, *parameters: Parameter, tool: str | None, **known: Any) -> Kind:
    return called(tool, getattr(Image.Image, name), f"{{x}}.{name}({{args}})", *parameters, **known)


def _image_ops(name: str, *parameters: Parameter, tool: str, **known: Any) -> Kind:
    return called(tool, getattr(ImageOps, name), f"ImageOps.{name}({{x}}, {{args}})", *parameters, **known)


def _enhancer(name: str, tool: str) -> Kind:
    enhancer: Any = getattr(ImageEnhance, name)
    factor = Parameter("factor", number(-1000, 1000))
    template = f"ImageEnhance.{name}({{x}}).enhance({{args}})"
    return called(tool, lambda image, factor: enhancer(image).enhance(factor), template, factor)


def _filter(name: str, *parameters: Parameter, tool: str, bound: Bound = AROUND) -> Kind:
    kernel: Any = getattr(ImageFilter, name)
    template = f"{{x}}.filter(ImageFilter.{name}{'({args})' if parameters else ''})"
    return called(tool, lambda image, **values: image.filter(kernel(**values)), template, *parameters, bound=bound)


def _drawing(name: str, *parameters: Parameter) -> Kind:
    """A shape of `ImageDraw`, drawn on a copy."""

    def draw(image: Image.Image, **values: Any) -> Image.Image:
        copy = image.copy()
        getattr(ImageDraw.Draw(copy), name)(**values)
        return copy

    template = f"{{x}} = {{x}}.copy()\nImageDraw.Draw({{x}}).{name}({{args}})"
    return called("draw", draw, template, *parameters, bound=_DRAWN)


def _pasted(image: Image.Image, size: Size, color: Any, box: tuple[int, int]) -> Image.Image:
    canvas = Image.new(image.mode, size, color)
    canvas.paste(image, box)
    return canvas


def _is_near(values: Values, size: tuple[int, int]) -> bool:
    """Whether a shape lies within twice the length of the image's longer side."""
    return bool(max(map(abs, values[0])) <= 2 * max(size))


def _resized_one_way(values: Values, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Both possible sizes of the image after the first pass: Pillow starts with the cheaper one of rows and columns."""
    (width, height), box = values[0], values[2] or (0, 0, *size)
    rows = min(size[1], math.ceil(box[3]) - math.floor(box[1]) + 8)
    columns = min(size[0], math.ceil(box[2]) - math.floor(box[0]) + 8)
    return (width, rows), (columns, height)


_DRAWN = Bound(250, "Pillow walks along the whole shape, also where it leaves the image", holds=_is_near)
_QUICKSELECT = Bound(reason="finding a rank takes time that depends on the pixels, up to the square of the window")
_METHOD = Parameter("method", RESAMPLING, 3)
_SIGMA = number(0, 50)

#: Pillow's operations, by name.
PILLOW_OPERATIONS: dict[str, Kind] = {
    "orient": Kind(
        None,
        lambda image, values: orient(image, values[0]),
        "{x}.transpose({args})",
        (Parameter("method", only(*ORIENTATIONS)),),
        after=turned,
        frame=lambda values, size: orientation_frame(values[0], size),
        bound=MOVE,
    ),
    "Image.rotate": _pillow_method(
        "rotate",
        Parameter("angle", number(-1e6, 1e6)),
        Parameter("resample", AFFINE_RESAMPLING, 0),
        Parameter("expand", is_flag, False),
        Parameter("center", maybe(pair(number(-1e5, 1e5))), None),
        Parameter("translate", maybe(pair(number(-1e5, 1e5))), None),
        Parameter("fillcolor", is_color, None),
        tool="rotate",
        after=rotated,
        frame=lambda values, size: rotation(values, size)[1],
    ),
    "Image.crop": _pillow_method(
        "crop", Parameter("box", is_box), tool="crop", after=cropped, frame=crop_frame, bound=MOVE
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
        bound=Bound(40, between=_resized_one_way),
    ),
    "Image.convert": _pillow_method(
        "convert",
        Parameter("mode", only("L", "RGB")),
        tool=None,
        after=lambda values, state: State(state.size, values[0]),
    ),
    "ImageOps.pad": _image_ops(
        "pad",
        Parameter("size", is_size),
        _METHOD,
        Parameter("color", is_color, None),
        Parameter("centering", UNIT_PAIR, (0.5, 0.5)),
        tool="pad",
        after=resized,
        frame=pad_frame,
    ),
    "ImageOps.expand": _image_ops(
        "expand",
        Parameter("border", is_border, 0),
        Parameter("fill", is_color, 0),
        tool="pad",
        after=expanded,
        frame=lambda values, _: Affine(c=-borders(values[0])[0], f=-borders(values[0])[1]),
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
        "MedianFilter", Parameter("size", odd(1, 9), 3), tool="median", bound=_QUICKSELECT
    ),
    "ImageFilter.MinFilter": _filter("MinFilter", Parameter("size", odd(1, 9), 3), tool="erode", bound=Bound(2000)),
    "ImageFilter.MaxFilter": _filter("MaxFilter", Parameter("size", odd(1, 9), 3), tool="dilate", bound=Bound(2000)),
    "ImageFilter.ModeFilter": _filter("ModeFilter", Parameter("size", odd(1, 9), 3), tool="median", bound=Bound(1500)),
    "ImageFilter.RankFilter": _filter(
        "RankFilter",
        Parameter("size", odd(1, 9)),
        Parameter("rank", integer(0, 80)),
        tool="median",
        bound=_QUICKSELECT,
    ),
    "ImageFilter.Kernel": _filter(
        "Kernel",
        Parameter("size", only((3, 3), (5, 5))),
        Parameter("kernel", numbers(9, 25)),
        Parameter("scale", maybe(number(-1e4, 1e4)), None),
        Parameter("offset", number(-1e4, 1e4), 0),
        tool="convolve",
    ),
    "Image.getchannel": _pillow_method(
        "getchannel",
        Parameter("channel", only(0, 1, 2)),
        tool="channel",
        after=lambda _, state: State(state.size, "L"),
        modes=("RGB",),
        bound=MOVE,
    ),
    "Image.transform": _pillow_method(
        "transform",
        Parameter("size", is_size),
        Parameter("method", only(0, 1, 2, 3)),
        Parameter("data", numbers(4, 6, 8)),
        Parameter("resample", AFFINE_RESAMPLING, 0),
        Parameter("fill", only(1), 1),
        Parameter("fillcolor", is_color, None),
        tool="perspective",
        after=resized,
        frame=transform_frame,
        bound=Bound(80),
    ),
    "Image.paste": called(
        "pad",
        _pasted,
        "canvas = Image.new({x}.mode, {0}, {1})\ncanvas.paste({x}, {2})\n{x} = canvas",
        Parameter("size", is_size),
        Parameter("color", is_color, 0),
        Parameter("box", pair(integer(-(10**5), 10**5)), (0, 0)),
        after=resized,
        frame=lambda values, _: Affine(c=-values[2][0], f=-values[2][1]),
        bound=MOVE,
    ),
    **{
        f"ImageDraw.{name}": _drawing(
            name,
            Parameter("xy", is_corners),
            Parameter("fill", is_color, None),
            Parameter("outline", is_color, None),
            Parameter("width", integer(0, 200), 1),
        )
        for name in ("rectangle", "ellipse")
    },
    "ImageDraw.line": _drawing(
        "line",
        Parameter("xy", is_points),
        Parameter("fill", is_color, None),
        Parameter("width", integer(0, 200), 1),
        Parameter("joint", only(None, "curve"), None),
    ),
}
