"""Programs and images for property tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from sandbox.operations.arrays import Table
from sandbox.operations.operation import Operation, State
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS

_SIDES = st.integers(1, 40)
_SIZES = st.tuples(_SIDES, _SIDES)
_COLORS = st.one_of(st.none(), st.sampled_from(["red", "#102030"]), st.tuples(*[st.integers(0, 255)] * 3))
_RADII = st.floats(0, 20, allow_nan=False).map(lambda value: round(value, 3))
_ODD = st.sampled_from([1, 3, 5])

#: A strategy for the values of each parameter, by operation and parameter, or by parameter alone.
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "orient.method": st.sampled_from(
        ["rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical", "transverse"]
    ),
    "angle": st.floats(-400, 400).map(lambda value: round(value, 2)).filter(lambda value: value % 90 != 0),
    "Image.rotate.resample": st.sampled_from([0, 2, 3]),
    "expand": st.booleans(),
    "center": st.one_of(st.none(), st.tuples(st.integers(0, 30), st.floats(0, 30))),
    "translate": st.one_of(st.none(), st.tuples(st.integers(-9, 9), st.integers(-9, 9))),
    "fillcolor": _COLORS,
    "color": _COLORS,
    "fill": st.sampled_from([0, 7, "red"]),
    "size": _SIZES,
    "Image.resize.resample": st.one_of(st.none(), st.integers(0, 5)),
    "Image.resize.box": st.none(),
    "reducing_gap": st.one_of(st.none(), st.floats(1, 4)),
    "Image.convert.mode": st.just("L"),
    "ImageOps.pad.method": st.integers(0, 5),
    "centering": st.tuples(st.floats(0, 1), st.floats(0, 1)),
    "border": st.one_of(st.integers(0, 5), st.tuples(*[st.integers(0, 5)] * 2), st.tuples(*[st.integers(0, 5)] * 4)),
    "cutoff": st.integers(0, 49),
    "ignore": st.one_of(st.none(), st.integers(0, 255)),
    "mask": st.none(),
    "preserve_tone": st.booleans(),
    "bits": st.integers(1, 8),
    "ImageOps.solarize.threshold": st.integers(0, 255),
    "factor": st.floats(-3, 5).map(lambda value: round(value, 3)),
    "radius": _RADII,
    "percent": st.integers(0, 300),
    "ImageFilter.UnsharpMask.threshold": st.integers(0, 20),
    **{f"ImageFilter.{name}Filter.size": _ODD for name in ("Median", "Min", "Max")},
    "ksize": st.tuples(_ODD, _ODD),
    "cv2.medianBlur.ksize": st.sampled_from([3, 5]),
    "d": st.integers(1, 7),
    "sigmaColor": st.floats(1, 100),
    "sigmaSpace": st.floats(1, 100),
    "alpha": st.floats(-2, 3),
    "beta": st.floats(-99, 99),
    "thresh": st.integers(0, 255),
    "maxval": st.integers(0, 255),
    "type": st.sampled_from([0, 1, 2, 3, 4]),
    "channel": st.integers(0, 2),
    "ImageFilter.ModeFilter.size": _ODD,
    "xy": st.lists(st.integers(-5, 45), min_size=6, max_size=6).map(tuple),
    "width": st.integers(0, 3),
    "joint": st.sampled_from([None, "curve"]),
    "threshold1": st.integers(0, 255),
    "threshold2": st.integers(0, 255),
}


_KERNELS = st.sampled_from(
    [
        None,
        Table(((1, 1, 1), (1, 1, 1), (1, 1, 1)), "uint8"),
        Table(((0, 1, 0), (1, 1, 1), (0, 1, 0)), "uint8"),
        Table(((1, 1),), "uint8"),
        Table(((0, 1), (1, 1), (0, 1), (1, 0)), "uint8"),
    ]
)
_WEIGHTS = st.sampled_from(
    [
        Table(((0, -1, 0), (-1, 5, -1), (0, -1, 0)), "int64"),
        Table(((-1.0, -1.0, -1.0), (-1.0, 9.0, -1.0), (-1.0, -1.0, -1.0)), "float32"),
        Table(((0.1, 0.2), (0.3, 0.4)), "float64"),
        Table(((1.0, -2.0, 1.0),), "float64"),
    ]
)


_DATA = {0: (0.9, 0.2, -3, -0.1, 1.1, 2.5), 1: (1, 2, 19.5, 17), 2: (1, 0.1, 2, 0.2, 0.9, 1, 0.001, 0.002)}
#: Strategies for the values of whole calls.
_CALLS: dict[str, st.SearchStrategy[Any]] = {
    "cv2.resize": st.one_of(
        st.tuples(_SIZES, st.just(0), st.just(0), st.integers(0, 4)),
        st.tuples(st.none(), st.floats(1, 3), st.sampled_from([1, 2, 1.5]), st.integers(0, 4)),
    ),
    "Image.transform": st.one_of(
        *(
            st.tuples(_SIZES, st.just(method), st.just(data), st.sampled_from([0, 2, 3]), st.just(1), _COLORS)
            for method, data in {**_DATA, 3: (0, 0, 1, 20, 22, 19, 20, 1)}.items()
        )
    ),
    "Image.paste": st.tuples(
        _SIZES, st.sampled_from([0, 7, "red"]), st.tuples(st.integers(-9, 20), st.integers(-9, 20))
    ),
    "ImageFilter.RankFilter": st.tuples(st.just(3), st.integers(0, 8)),
    "ImageFilter.Kernel": st.tuples(
        st.just((3, 3)), st.just((1, -2, 3, 0.5, 9, -4, 0, 1, 1)), st.sampled_from([None, 3, -0.7]), st.floats(-9, 9)
    ),
    "cv2.GaussianBlur": st.one_of(
        st.tuples(st.tuples(_ODD, _ODD), st.floats(0.1, 9), st.floats(0, 9)),
        st.tuples(st.just((0, 0)), st.floats(0.1, 9), st.just(0)),
    ),
    **{f"cv2.{name}": st.tuples(_KERNELS, st.integers(1, 3)) for name in ("erode", "dilate")},
    "cv2.morphologyEx": st.tuples(st.integers(0, 6), _KERNELS, st.integers(1, 2)),
    "cv2.filter2D": st.tuples(st.just(-1), _WEIGHTS),
    "cv2.adaptiveThreshold": st.tuples(
        st.just(255), st.integers(0, 1), st.integers(0, 1), st.sampled_from([3, 11]), st.integers(-5, 5)
    ),
    "cv2.createCLAHE": st.tuples(st.sampled_from([2.0, 40.0, 0]), st.sampled_from([(8, 8), (2, 3)])),
    "cv2.warpAffine": st.tuples(
        st.just(Table(((0.9, -0.3, 4.0), (0.2, 1.1, -2.5)), "float64")),
        _SIZES,
        st.integers(0, 4),
        st.sampled_from([0, 1, 2, 4]),
        st.sampled_from([0, 9]),
    ),
    "cv2.warpPerspective": st.tuples(
        st.just(Table(((0.9, -0.3, 4.0), (0.2, 1.1, -2.5), (0.003, -0.002, 1.0)), "float64")),
        _SIZES,
        st.integers(0, 4),
        st.sampled_from([0, 1, 2, 4]),
        st.sampled_from([0, 9]),
    ),
    "cv2.Sobel": st.tuples(st.just(-1), st.integers(0, 2), st.integers(1, 2), st.sampled_from([3, 5, 7])),
    "cv2.Laplacian": st.tuples(st.just(-1), st.sampled_from([1, 3, 5, 7])),
    "cv2.copyMakeBorder": st.tuples(*[st.integers(0, 5)] * 4, st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 9])),
    "cv2.LUT": st.just((Table(tuple((7 * value + 3) % 256 for value in range(256)), "uint8"),)),
    "cv2.fastNlMeansDenoisingColored": st.tuples(st.just(5), st.just(7), st.just(3), st.just(5)),
    "cv2.fastNlMeansDenoising": st.tuples(st.just(5), st.just(3), st.just(5)),
}


@st.composite
def boxes(draw: st.DrawFn, lowest: int = -5, highest: int = 45) -> tuple[int, int, int, int]:
    """A box with at least one pixel, which may lie outside a small image in part or in whole."""
    left, top = draw(st.integers(lowest, highest - 1)), draw(st.integers(lowest, highest - 1))
    return left, top, draw(st.integers(left + 1, highest)), draw(st.integers(top + 1, highest))


@st.composite
def operations_named(draw: st.DrawFn, name: str) -> Operation:
    """A call of one operation."""
    if name == "Image.crop":
        return Operation(name, (draw(boxes()),))
    if name in {"ImageDraw.rectangle", "ImageDraw.ellipse"}:
        colors = draw(st.tuples(_COLORS, _COLORS, st.integers(0, 3)))
        return Operation(name, (draw(boxes()), *colors))
    if name in _CALLS:
        return Operation(name, draw(_CALLS[name]))
    parameters = OPERATIONS[name].parameters
    values = (
        _VALUES[own] if (own := f"{name}.{parameter.name}") in _VALUES else _VALUES[parameter.name]
        for parameter in parameters
    )
    return Operation(name, tuple(draw(value) for value in values))


def operations(mode: str = "RGB") -> st.SearchStrategy[Operation]:
    """An operation that takes images of `mode`."""
    names = sorted(name for name, kind in OPERATIONS.items() if mode in kind.modes)
    return st.sampled_from(names).flatmap(operations_named)


@st.composite
def programs(draw: st.DrawFn, most: int = 4) -> ToolProgram:
    """A program whose operations take the modes that they are given."""
    mode, steps = "RGB", []
    for _ in range(draw(st.integers(0, most))):
        operation = draw(operations(mode))
        gray = [part for part in operation.values if isinstance(part, tuple) and len(part) == 3]
        if mode == "L" and (gray or operation.name == "Image.convert"):
            continue
        steps.append(operation)
        mode = OPERATIONS[operation.name].after(operation.values, State((50, 50), mode)).mode
    text = draw(st.sampled_from(["", "", "", "size (3, 4)\n", 'it\'s "so"\n']))
    return ToolProgram(tuple(steps), draw(st.sampled_from([None, None, 1])), text)


@st.composite
def images(draw: st.DrawFn, most: int = 40) -> Image.Image:
    """A small RGB image of noise."""
    width, height = draw(st.integers(1, most)), draw(st.integers(1, most))
    pixels = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
